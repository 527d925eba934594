#include "common/pattern/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/mem.h"

/* A step is a way to go on that PCRE2 remembers. With these a search of 512 bytes takes under a
 * millisecond. */
#define STEPS_MAX      5000
#define HEAP_KIB_MAX   1024
#define NEST_MAX       100 /* brackets in brackets */
#define JIT_STACK      (64u << 10)
#define AUTOMATON_INTS 20000 /* some 3,300 states; more would take too long */

/* Nothing in a pattern may change what bytes are (UTF) or end a match before its end. */
#define OPTIONS                                                                                    \
	(PCRE2_CASELESS | PCRE2_DOTALL | PCRE2_NEVER_UTF | PCRE2_NEVER_UCP |                       \
	 PCRE2_NEVER_BACKSLASH_C)

struct pattern {
	pcre2_code *code;
	pcre2_code *automaton; /* made at the first need; NULL: none yet, or none possible */
	bool automaton_tried;
	char *re;
	size_t n;
};

/* What matching works in: one for the process. */
static struct {
	pcre2_match_context *limits;
	pcre2_match_data *data;
	pcre2_jit_stack *stack;
	int *automaton; /* made at the first need */
	uint64_t given_up;
} room;

static pcre2_code *
compile(const char *re, size_t n, int *error, size_t *at)
{
	pcre2_compile_context *c = pcre2_compile_context_create(NULL);
	PCRE2_SIZE offset = 0;
	pcre2_code *code;

	CHECK(c != NULL);
	pcre2_set_parens_nest_limit(c, NEST_MAX);
	code = pcre2_compile((PCRE2_SPTR)re, n, OPTIONS, error, &offset, c);
	*at = offset;
	pcre2_compile_context_free(c);
	return code;
}

static pcre2_code *
compile_told(struct slice re, struct buf *why)
{
	pcre2_code *code;
	unsigned char text[200];
	size_t at;
	int error;

	if (re.n > PATTERN_BYTES_MAX) {
		if (why != NULL)
			buf_printf(why, "longer than %d bytes", PATTERN_BYTES_MAX);
		return NULL;
	}
	code = compile(re.n > 0 ? re.p : "", re.n, &error, &at);
	if (code == NULL && why != NULL) {
		if (pcre2_get_error_message(error, text, sizeof text) < 0)
			text[0] = '\0';
		buf_printf(why, "%s (at byte %zu)", (const char *)text, at);
	}
	return code;
}

int
pattern_check(struct slice re, struct buf *why)
{
	pcre2_code *code = compile_told(re, why);

	pcre2_code_free(code);
	return code != NULL ? 0 : -E_BAD;
}

static void
open_room(void)
{
	if (room.limits != NULL)
		return;
	room.limits = pcre2_match_context_create(NULL);
	room.data = pcre2_match_data_create(PATTERN_GROUPS_MAX + 1, NULL);
	room.stack = pcre2_jit_stack_create(JIT_STACK / 2, JIT_STACK, NULL);
	CHECK(room.limits != NULL && room.data != NULL && room.stack != NULL);
	pcre2_set_match_limit(room.limits, STEPS_MAX);
	pcre2_set_depth_limit(room.limits, STEPS_MAX);
	pcre2_set_heap_limit(room.limits, HEAP_KIB_MAX);
	pcre2_jit_stack_assign(room.limits, NULL, room.stack);
}

int
pattern_new(struct pattern **out, struct slice re, struct buf *why)
{
	pcre2_code *code = compile_told(re, why);
	struct pattern *p;

	*out = NULL;
	if (code == NULL)
		return -E_BAD;
	open_room();
	(void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without it the interpreter is used */
	p = mem_zalloc(sizeof *p);
	p->code = code;
	p->re = mem_memdup0(re.n > 0 ? re.p : "", re.n);
	p->n = re.n;
	*out = p;
	return 0;
}

void
pattern_free(struct pattern **pp)
{
	struct pattern *p = *pp;

	*pp = NULL;
	if (p == NULL)
		return;
	pcre2_code_free(p->code);
	pcre2_code_free(p->automaton);
	mem_free(p->re);
	mem_free(p);
}

static void
take_groups(int found, struct slice text, struct pattern_groups *groups)
{
	const PCRE2_SIZE *at = pcre2_get_ovector_pointer(room.data);

	groups->n = 0;
	/* 0: there were more of them than we have room for. */
	for (int i = 1; i < (found == 0 ? PATTERN_GROUPS_MAX + 1 : found); i++) {
		PCRE2_SIZE from = at[2 * i], to = at[2 * i + 1];

		groups->at[groups->n++] = from == PCRE2_UNSET || to < from
						  ? SLICE_NONE
						  : slice_of(text.p + from, to - from);
	}
}

/* The pattern with anything before it: one pass over the text from its beginning finds what
 * searching from every place would. Where the brackets around it could mean something else, NULL.
 */
static void
make_automaton(struct pattern *p)
{
	struct buf all = { 0 };
	int error;
	size_t at;

	p->automaton_tried = true;
	/* Quoting that never ends, and a comment of (?x), would take the bracket in. */
	if (memmem(p->re, p->n, "\\Q", 2) != NULL || memchr(p->re, '#', p->n) != NULL)
		return;
	buf_puts(&all, "(?s:.*?)(?:");
	buf_put(&all, p->re, p->n);
	buf_puts(&all, ")");
	p->automaton = compile(all.data + all.start, all.len, &error, &at);
	buf_clear(&all);
}

static bool
match_slowly(struct pattern *p, struct slice text)
{
	int rc = PCRE2_ERROR_MATCHLIMIT;

	if (room.automaton == NULL)
		room.automaton = mem_alloc(AUTOMATON_INTS * sizeof *room.automaton);
	if (!p->automaton_tried)
		make_automaton(p);
	if (p->automaton != NULL)
		rc = pcre2_dfa_match(p->automaton, (PCRE2_SPTR)text.p, text.n, 0,
				     PCRE2_ANCHORED | PCRE2_DFA_SHORTEST, room.data, room.limits,
				     room.automaton, AUTOMATON_INTS);
	if (rc >= 0)
		return true;
	if (rc != PCRE2_ERROR_NOMATCH)
		room.given_up++;
	return false;
}

bool
pattern_match(struct pattern *p, struct slice text, struct pattern_groups *groups)
{
	int rc;

	if (groups != NULL)
		groups->n = 0;
	if (text.p == NULL)
		text.p = "";
	rc = pcre2_match(p->code, (PCRE2_SPTR)text.p, text.n, 0, 0, room.data, room.limits);
	if (rc == PCRE2_ERROR_NOMATCH)
		return false;
	if (rc < 0)
		return groups == NULL && match_slowly(p, text);
	if (groups != NULL)
		take_groups(rc, text, groups);
	return true;
}

uint64_t
pattern_given_up(void)
{
	return room.given_up;
}

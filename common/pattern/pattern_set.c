#include "common/pattern/pattern_set.h"

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "common/pattern/pattern_engine.h"

#define MAGIC     0x31544150u /* "PAT1" */
#define DB_MAX    (1u << 30)
#define WORD_BITS 64

struct pattern_set {
	size_t n, n_words;
	const struct pattern_engine *engine;
	void *db;         /* NULL: no pattern is the engine's */
	uint8_t *grades;  /* of each */
	uint64_t *always; /* bits: candidates of any text */
	uint64_t *bits;   /* of the text last scanned */
	char **res;
	size_t *lens;
	struct pattern **codes; /* of those that PCRE2 was needed for so far */
};

static struct pattern_set *
set_of(const struct slice *patterns, size_t n, const struct pattern_engine *engine)
{
	struct pattern_set *s = mem_zalloc(sizeof *s);

	s->n = n;
	s->n_words = n / WORD_BITS + 1;
	s->engine = engine;
	s->grades = mem_zalloc(n + 1);
	memset(s->grades, PATTERN_ALWAYS, n);
	s->always = mem_calloc(s->n_words, sizeof *s->always);
	s->bits = mem_calloc(s->n_words, sizeof *s->bits);
	s->codes = mem_calloc(n + 1, sizeof(struct pattern *));
	s->res = mem_calloc(n + 1, sizeof(char *));
	s->lens = mem_calloc(n + 1, sizeof *s->lens);
	for (size_t i = 0; i < n; i++) {
		s->res[i] = mem_memdup0(patterns[i].n > 0 ? patterns[i].p : "", patterns[i].n);
		s->lens[i] = patterns[i].n;
	}
	return s;
}

/* The code of pattern `i`, made at the first need. */
static struct pattern *
code_of(struct pattern_set *s, size_t i)
{
	if (s->codes[i] == NULL)
		CHECK(pattern_new(&s->codes[i], slice_of(s->res[i], s->lens[i]), NULL) == 0);
	return s->codes[i];
}

static void
graded(struct pattern_set *s)
{
	for (size_t i = 0; i < s->n; i++) {
		if (s->grades[i] == PATTERN_ALWAYS)
			s->always[i / WORD_BITS] |= 1ull << i % WORD_BITS;
		/* Now rather than in the middle of a delivery. */
		if (s->grades[i] != PATTERN_SURE)
			(void)code_of(s, i);
	}
}

struct pattern_set *
pattern_set_new(const struct slice *patterns, size_t n, const struct pattern_engine *engine)
{
	struct pattern_set *s = set_of(patterns, n, engine);

	if (engine != NULL && n > 0)
		engine->compile(patterns, n, s->grades, &s->db);
	graded(s);
	return s;
}

void
pattern_set_free(struct pattern_set **sp)
{
	struct pattern_set *s = *sp;

	*sp = NULL;
	if (s == NULL)
		return;
	if (s->db != NULL)
		s->engine->free(s->db);
	for (size_t i = 0; i < s->n; i++) {
		pattern_free(&s->codes[i]);
		mem_free(s->res[i]);
	}
	mem_free(s->codes);
	mem_free(s->res);
	mem_free(s->lens);
	mem_free(s->bits);
	mem_free(s->always);
	mem_free(s->grades);
	mem_free(s);
}

void
pattern_set_save(const struct pattern_set *s, struct buf *out)
{
	struct buf db = { 0 };

	wire_put_u32(out, MAGIC);
	wire_put_bytes(out, slice_of(s->grades, s->n));
	if (s->db != NULL)
		s->engine->save(s->db, &db);
	wire_put_bytes(out, buf_slice(&db));
	buf_clear(&db);
}

int
pattern_set_load(struct pattern_set **out, const struct slice *patterns, size_t n,
		 const struct pattern_engine *engine, struct slice saved)
{
	struct pattern_set *s = set_of(patterns, n, engine);
	struct slice grades, db;
	struct wire_reader r;
	int rc = 0;

	wire_read_init(&r, saved);
	if (wire_u32(&r) != MAGIC)
		r.bad = true;
	grades = wire_bytes(&r, n);
	db = wire_bytes(&r, DB_MAX);
	if (!wire_done(&r) || grades.n != n || (db.n > 0 && engine == NULL))
		rc = -E_BAD;
	for (size_t i = 0; i < n && rc == 0; i++) {
		s->grades[i] = (uint8_t)grades.p[i];
		if (s->grades[i] >= PATTERN_GRADES || (s->grades[i] != PATTERN_ALWAYS && db.n == 0))
			rc = -E_BAD;
	}
	if (rc == 0 && db.n > 0)
		rc = engine->load(db, &s->db);
	if (rc == 0)
		graded(s);
	else
		pattern_set_free(&s);
	*out = s;
	return rc;
}

const char *
pattern_set_engine(const struct pattern_set *s, size_t *sure)
{
	*sure = 0;
	for (size_t i = 0; i < s->n; i++)
		*sure += s->grades[i] == PATTERN_SURE;
	return s->engine != NULL ? s->engine->name : "pcre2";
}

void
pattern_set_scan(struct pattern_set *s, struct slice text)
{
	memcpy(s->bits, s->always, s->n_words * sizeof *s->bits);
	if (s->db != NULL)
		s->engine->scan(s->db, text, s->bits);
}

long
pattern_set_candidate(const struct pattern_set *s, size_t from)
{
	size_t word = from / WORD_BITS;
	uint64_t left;

	if (from >= s->n)
		return -1;
	left = s->bits[word] & (~0ull << from % WORD_BITS);
	while (left == 0) {
		if (++word >= s->n_words)
			return -1;
		left = s->bits[word];
	}
	return (long)(word * WORD_BITS + (size_t)__builtin_ctzll(left));
}

bool
pattern_set_confirm(struct pattern_set *s, size_t i, struct slice text)
{
	CHECK(i < s->n);
	return s->grades[i] == PATTERN_SURE || pattern_match(code_of(s, i), text, NULL);
}

void
pattern_set_groups(struct pattern_set *s, size_t i, struct slice text,
		   struct pattern_groups *groups)
{
	CHECK(i < s->n);
	(void)pattern_match(code_of(s, i), text, groups);
}

/* pattern_vectorscan: the engine that searches all patterns of a set in one pass, in time linear in
 * the text. */
#include "common/pattern/pattern_engine.h"

#ifdef NO_VECTORSCAN

const struct pattern_engine *
pattern_vectorscan(void)
{
	return NULL;
}

#else

#include <hs.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/mem.h"

#define RETRIES_MAX                                                                                \
	20 /* patterns taken out of a set that did not compile, before it is left to PCRE2 */

/* As PCRE2 searches: bytes, both cases, a dot takes all; a pattern may match nothing at all. */
#define FLAGS (HS_FLAG_CASELESS | HS_FLAG_DOTALL | HS_FLAG_ALLOWEMPTY | HS_FLAG_SINGLEMATCH)

static hs_scratch_t *scratch; /* of the process, as large as the largest set wants it */

/* The scanner for SSE4.2 alone, which the library has beside the ones that it picks by machine.
 * Of 5.4.9 (Debian 12) those for AVX2 and AVX-512 miss matches, most often near the end of a text;
 * this one agrees with PCRE2. */
hs_error_t corei7_hs_scan(const hs_database_t *, const char *, unsigned, unsigned, hs_scratch_t *,
			  match_event_handler, void *) __attribute__((weak));

/* What to compile for: no wide vectors. False: nothing that the library runs on, or one without
 * that scanner. */
static bool
platform(hs_platform_info_t *p)
{
	if (hs_valid_platform() != HS_SUCCESS || corei7_hs_scan == NULL)
		return false;
	memset(p, 0, sizeof *p);
	p->tune = HS_TUNE_FAMILY_GENERIC;
	return true;
}

/* What the library alone makes of one pattern. */
static enum pattern_grade
grade(const char *re)
{
	static const struct {
		unsigned flags;
		enum pattern_grade grade;
	} tries[] = { { FLAGS, PATTERN_SURE }, { FLAGS | HS_FLAG_PREFILTER, PATTERN_MAYBE } };

	for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
		hs_expr_info_t *info = NULL;
		hs_compile_error_t *error = NULL;
		hs_error_t rc = hs_expression_info(re, tries[i].flags, &info, &error);

		hs_free_compile_error(error);
		free(info);
		if (rc == HS_SUCCESS)
			return tries[i].grade;
	}
	return PATTERN_ALWAYS;
}

struct batch {
	const char **res;
	unsigned *flags, *ids;
	unsigned n;
};

static void
batch_fill(struct batch *b, char *const *res, size_t n, const uint8_t *grades)
{
	b->n = 0;
	for (size_t i = 0; i < n; i++) {
		if (grades[i] == PATTERN_ALWAYS)
			continue;
		b->res[b->n] = res[i];
		b->flags[b->n] = FLAGS | (grades[i] == PATTERN_MAYBE ? HS_FLAG_PREFILTER : 0);
		b->ids[b->n++] = (unsigned)i;
	}
}

static hs_database_t *
compile_all(char *const *res, size_t n, uint8_t *grades, const hs_platform_info_t *p)
{
	struct batch b = { mem_calloc(n, sizeof *b.res), mem_calloc(n, sizeof *b.flags),
			   mem_calloc(n, sizeof *b.ids), 0 };
	hs_database_t *db = NULL;

	for (unsigned i = 0; i < RETRIES_MAX; i++) {
		hs_compile_error_t *error = NULL;

		batch_fill(&b, res, n, grades);
		if (b.n == 0 || hs_compile_multi(b.res, b.flags, b.ids, b.n, HS_MODE_BLOCK, p, &db,
						 &error) == HS_SUCCESS)
			break;
		db = NULL;
		/* One that is too much for it; or the set as a whole is. */
		if (error != NULL && error->expression >= 0 && (unsigned)error->expression < b.n)
			grades[b.ids[error->expression]] = PATTERN_ALWAYS;
		else
			i = RETRIES_MAX;
		hs_free_compile_error(error);
	}
	mem_free(b.res);
	mem_free(b.flags);
	mem_free(b.ids);
	return db;
}

static bool
grow_scratch(const hs_database_t *db)
{
	return hs_alloc_scratch(db, &scratch) == HS_SUCCESS;
}

static void
engine_compile(const struct slice *patterns, size_t n, uint8_t *grades, void **db)
{
	char **res = mem_calloc(n, sizeof *res);
	hs_platform_info_t p;

	*db = NULL;
	for (size_t i = 0; i < n; i++) {
		res[i] = mem_memdup0(patterns[i].n > 0 ? patterns[i].p : "", patterns[i].n);
		/* It takes strings: one with a NUL inside is PCRE2's. */
		grades[i] = memchr(res[i], '\0', patterns[i].n) != NULL ? PATTERN_ALWAYS
									: grade(res[i]);
	}
	if (platform(&p))
		*db = compile_all(res, n, grades, &p);
	if (*db != NULL && !grow_scratch(*db)) {
		hs_free_database(*db);
		*db = NULL;
	}
	if (*db == NULL)
		memset(grades, PATTERN_ALWAYS, n);
	for (size_t i = 0; i < n; i++)
		mem_free(res[i]);
	mem_free(res);
}

static void
engine_save(const void *db, struct buf *out)
{
	char *bytes = NULL;
	size_t n = 0;

	CHECK(hs_serialize_database(db, &bytes, &n) == HS_SUCCESS);
	buf_put(out, bytes, n);
	free(bytes);
}

static int
engine_load(struct slice saved, void **db)
{
	hs_database_t *d = NULL;

	*db = NULL;
	/* It checks length, version, machine and checksum. */
	if (hs_deserialize_database(saved.p, saved.n, &d) != HS_SUCCESS)
		return -E_BAD;
	if (!grow_scratch(d)) {
		hs_free_database(d);
		return -E_BAD;
	}
	*db = d;
	return 0;
}

static int
on_match(unsigned id, unsigned long long from, unsigned long long to, unsigned flags, void *arg)
{
	uint64_t *bits = arg;

	(void)from;
	(void)to;
	(void)flags;
	bits[id / 64] |= 1ull << id % 64;
	return 0;
}

static void
engine_scan(const void *db, struct slice text, uint64_t *bits)
{
	CHECK(corei7_hs_scan(db, text.p != NULL ? text.p : "", (unsigned)text.n, 0, scratch,
			     on_match, bits) == HS_SUCCESS);
}

static void
engine_free(void *db)
{
	hs_free_database(db);
}

const struct pattern_engine *
pattern_vectorscan(void)
{
	static const struct pattern_engine engine = { "vectorscan", engine_compile, engine_save,
						      engine_load,  engine_scan,    engine_free };
	hs_platform_info_t p;

	return platform(&p) ? &engine : NULL;
}

#endif

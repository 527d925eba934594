#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "common/conf/conf.h"
#include "common/queue/store_pages.h"
#include "ctl/check.h"

/* What came of it: `rc`, and rows, each of them a `what`, whose checksum is wrong. */
static void
table_loaded(struct check *c, enum check_id id, int rc, uint64_t bad, const char *what)
{
	check_looked(c, id, 0);
	if (rc != 0)
		check_found(c, id, "the table cannot be read: %s", err_text(rc));
	for (uint64_t i = 0; i < bad; i++)
		check_found(c, id, "%s fails its checksum", what);
}

/* Names -------------------------------------------------------------------------------------------
 */
static void
note_name(void *arg, uint32_t number, struct slice name)
{
	struct check *c = arg;
	size_t before = c->cap_named;

	/* Only queues: jobs and sender domains have names too. */
	if (memchr(name.p, '/', name.n) == NULL)
		return;
	mem_grow((void **)&c->named, &c->cap_named, (size_t)number / 8 + 1, 1);
	if (c->cap_named > before)
		memset(c->named + before, 0, c->cap_named - before);
	c->named[number / 8] |= (unsigned char)(1u << number % 8);
}

bool
check_is_named(const struct check *c, uint32_t number)
{
	return number / 8 < c->cap_named && (c->named[number / 8] >> number % 8 & 1) != 0;
}

static void
count_name(void *arg, uint32_t number, struct slice name)
{
	check_looked(arg, CHECK_NAMES, 1);
	note_name(arg, number, name);
}

static void
note_redirect(void *arg, uint32_t from, uint32_t to)
{
	struct check *c = arg;
	size_t before = c->cap_redirects;

	mem_grow((void **)&c->redirects, &c->cap_redirects, (size_t)from + 1, sizeof *c->redirects);
	if (c->cap_redirects > before)
		memset(c->redirects + before, 0, (c->cap_redirects - before) * sizeof *c->redirects);
	c->n_redirects += c->redirects[from] == 0;
	c->redirects[from] = to;
}

uint32_t
check_redirected(const struct check *c, uint32_t number)
{
	for (size_t i = 0; number < c->cap_redirects && c->redirects[number] != 0; i++) {
		if (i == c->n_redirects)
			return 0;
		number = c->redirects[number];
	}
	return number;
}

void
check_load_names(struct check *c)
{
	uint64_t bad;

	/* Redirects first: what they lead to is older. */
	(void)store_load_redirects(c->store, note_redirect, c, &bad);
	(void)store_load_names(c->store, note_name, c, &bad);
}

static void
check_names(struct check *c)
{
	uint64_t bad = 0;
	int rc = store_load_names(c->store, count_name, c, &bad);

	table_loaded(c, CHECK_NAMES, rc, bad, "a name");
}

/* States of queues --------------------------------------------------------------------------------
 */
static void
see_queue(void *arg, uint32_t queue, const struct store_queue *q)
{
	struct check *c = arg;

	(void)q;
	check_looked(c, CHECK_QUEUES, 1);
	if (!check_is_named(c, queue))
		check_found(c, CHECK_QUEUES, "queue=%u has a state and no name", queue);
}

static void
check_queues(struct check *c)
{
	uint64_t bad = 0;
	int rc = store_load_queues(c->store, see_queue, c, &bad);

	table_loaded(c, CHECK_QUEUES, rc, bad, "a state");
}

/* Redirects ---------------------------------------------------------------------------------------
 */
static void
check_redirects(struct check *c)
{
	uint64_t bad = 0;
	int rc = store_load_redirects(c->store, note_redirect, c, &bad);

	if (c->live && rc == 0)
		check_load_names(c); /* newer than they are */
	table_loaded(c, CHECK_REDIRECTS, rc, bad, "a redirect");
	for (uint32_t i = 0; i < c->cap_redirects; i++) {
		uint32_t end = check_redirected(c, i);

		if (c->redirects[i] == 0)
			continue;
		check_looked(c, CHECK_REDIRECTS, 1);
		if (end == 0)
			check_found(c, CHECK_REDIRECTS, "queue=%u is redirected in a circle", i);
		else if (!check_is_named(c, end))
			check_found(c, CHECK_REDIRECTS, "queue=%u leads to %u, which has no name", i,
				    end);
	}
}

/* Back-off ----------------------------------------------------------------------------------------
 */
#define OWED 3 /* kind of what somebody is still to be told of (scheduler/notify_event.h) */

/* Its head: kind, scope, name (scheduler/backoff_rows.h); what is owed has a key and what it is of
 * before its scope, and behind that three times and to whom. */
static void
see_backoff(void *arg, uint32_t number, struct slice blob)
{
	struct check *c = arg;
	struct wire_reader r;
	unsigned kind, scope;
	struct slice name;

	wire_read_init(&r, blob);
	kind = wire_u8(&r);
	if (kind == OWED)
		(void)wire_raw(&r, 8 + 1);
	scope = wire_u8(&r);
	if (kind == OWED)
		(void)wire_raw(&r, 3 * 8);
	name = wire_bytes(&r, kind == OWED ? STORE_BACKOFF_MAX : NAME_BYTES_MAX);
	check_looked(c, CHECK_BACKOFF, 1);
	if (r.bad || name.n == 0 || kind == 0 || scope >= CONF_RULE_SCOPES)
		check_found(c, CHECK_BACKOFF, "back-off=%u cannot be read", number);
}

static void
check_backoff(struct check *c)
{
	uint64_t bad = 0;
	int rc = store_load_backoff(c->store, see_backoff, c, &bad);

	table_loaded(c, CHECK_BACKOFF, rc, bad, "a part of back-off");
}

/* Operators' acts ---------------------------------------------------------------------------------
 */
static void
see_act(void *arg, uint32_t number, const struct store_act *act)
{
	struct check *c = arg;

	check_looked(c, CHECK_ACTS, 1);
	if (act->kind != STORE_ACT_LIMIT && act->kind != STORE_ACT_SOURCE_DISABLED)
		check_found(c, CHECK_ACTS, "act=%u is of no known kind", number);
}

static void
check_acts(struct check *c)
{
	uint64_t bad = 0;
	int rc = store_load_acts(c->store, see_act, c, &bad);

	table_loaded(c, CHECK_ACTS, rc, bad, "an act");
}

/* Replies -----------------------------------------------------------------------------------------
 */
static void
see_reply(void *arg, struct entry_key key)
{
	(void)key;
	check_looked(arg, CHECK_REPLIES, 1);
}

static void
check_replies(struct check *c)
{
	uint64_t bad = 0;
	int rc = store_load_replies(c->store, see_reply, c, &bad);

	table_loaded(c, CHECK_REPLIES, rc, bad, "a reply");
}

/* Segments' rows ----------------------------------------------------------------------------------
 */
struct check_segment *
check_segment_at(struct check *c, uint32_t number)
{
	return number < c->n_segments && c->segments[number].known ? &c->segments[number] : NULL;
}

static void
note_segment(void *arg, uint32_t number, const struct store_segment *row)
{
	struct check *c = arg;
	struct check_segment *g;

	if (row->bytes == 0 || number >= 1u << 22)
		return; /* forgotten */
	mem_grow((void **)&c->segments, &c->cap_segments, (size_t)number + 1, sizeof *c->segments);
	while (c->n_segments <= number)
		c->segments[c->n_segments++] = (struct check_segment){ .fd = -1 };
	g = &c->segments[number];
	if (g->known && g->row.epoch != row->epoch && g->fd >= 0) {
		close(g->fd);
		g->fd = -1;
	}
	g->row = *row;
	g->known = true;
}

void
check_load_segments(struct check *c)
{
	uint64_t bad;

	(void)store_load_segments(c->store, note_segment, c, &bad);
}

static void
see_segment(void *arg, uint32_t number, const struct store_segment *row)
{
	struct check *c = arg;

	check_looked(c, CHECK_SEGMENT_ROWS, 1);
	if (row->bytes > 0 && row->committed > row->bytes)
		check_found(c, CHECK_SEGMENT_ROWS, "segment=%u is committed behind its end",
			    number);
	if (!c->live && row->bytes > 0) {
		check_looked(c, CHECK_MARKS, 1);
		if (row->epoch >= c->meta.next_epoch)
			check_found(c, CHECK_MARKS,
				    "segment=%u epoch=%llu is not below the mark %llu", number,
				    (unsigned long long)row->epoch,
				    (unsigned long long)c->meta.next_epoch);
	}
	note_segment(c, number, row);
}

static void
check_segment_rows(struct check *c)
{
	uint64_t bad = 0;
	int rc = store_load_segments(c->store, see_segment, c, &bad);

	table_loaded(c, CHECK_SEGMENT_ROWS, rc, bad, "a segment's row");
}

void
check_tables(struct check *c)
{
	check_names(c);
	check_queues(c);
	check_acts(c);
	check_redirects(c);
	check_backoff(c);
	check_replies(c);
	check_segment_rows(c);
}

/* Pages and marks ---------------------------------------------------------------------------------
 */
static void
bad_page(void *arg, uint64_t page, const char *what)
{
	check_found(arg, CHECK_PAGES, "page=%llu %s", (unsigned long long)page, what);
}

static bool
pages_are_sound(struct check *c)
{
	struct store_pages pages;
	int dir = openat(c->spool.fd, "lmdb", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = dir < 0 ? -E_MISSING : store_pages_check(dir, &pages, bad_page, c);

	if (dir >= 0)
		close(dir);
	if (rc != 0 && (rc != -E_CRC || pages.problems == 0))
		check_found(c, CHECK_PAGES, "lmdb/data.mdb: %s", err_text(rc));
	if (rc == 0)
		check_looked(c, CHECK_PAGES, pages.pages);
	if (rc == 0 && pages.leaked > 0)
		check_found(c, CHECK_PAGES, "%llu pages are neither in use nor free",
			    (unsigned long long)pages.leaked);
	return rc == 0;
}

bool
check_open_store(struct check *c)
{
	struct buf receptions = { 0 };
	int rc, list = 0;

	if (!c->live && !pages_are_sound(c))
		return false;
	rc = store_open_reading(&c->store, c->spool.path, c->spool.instance);
	if (rc == 0)
		rc = store_load_meta(c->store, &c->meta);
	if (rc == 0)
		list = store_load_receptions(c->store, &receptions);
	buf_clear(&receptions);
	check_looked(c, CHECK_META, 1);
	if (list == -E_CRC) /* a start gets by without it */
		check_found(c, CHECK_META, "list of receptions: %s", err_text(list));
	else if (rc == 0)
		rc = list;
	if (rc != 0)
		check_found(c, CHECK_META, "%s", err_text(rc));
	return rc == 0;
}

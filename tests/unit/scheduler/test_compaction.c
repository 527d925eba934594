/* Live records of thin segments move together; what happens to an entry meanwhile wins. */
#include "tests/unit/scheduler/fixture.h"

#include <fcntl.h>
#include <stdio.h>

#include "common/queue/record.h"
#include "scheduler/compaction.h"
#include "scheduler/state.h"

#define ENTRIES  12
#define VICTIMS  3
#define LATER_S  (w.wall_s + 100000u)
#define BEFORE_S (w.wall_s - 100000u)
#define GAVE_UP  400 /* times 20 ms */

struct place {
	uint32_t segment, offset16;
	uint64_t epoch;
};

struct world {
	struct fixture *f;
	struct core *core;
	struct segments *segments;
	struct compaction *compaction;
	struct timer timer;
	uint32_t wall_s;
	uint32_t entries[ENTRIES];
	struct place places[ENTRIES];
	struct store_row rows[ENTRIES]; /* as the store has them */
	bool has_row[ENTRIES];
	bool rewrites; /* entry 9 always has a row on its way to the disk */
	unsigned polls, want_records, want_segments;
	/* Once, when compaction has its segment and has not moved anything yet. */
	void (*meanwhile)(struct world *w);
};

static struct world w;

static const struct conf_queue *
op_settings(void *ctx, uint32_t queue, struct slice name)
{
	static struct conf_queue settings;

	(void)ctx;
	(void)queue;
	(void)name;
	return &settings;
}

static void
op_changed(void *ctx, uint32_t queue)
{
	(void)ctx;
	(void)queue;
}

static void
opened(void *arg, unsigned owner, uint32_t generation, uint64_t for_bytes, uint32_t number,
       uint64_t epoch, uint64_t bytes, int rc)
{
	(void)arg;
	(void)owner;
	(void)generation;
	(void)for_bytes;
	(void)number;
	(void)epoch;
	(void)bytes;
	(void)rc;
	fail_msg("no receiver here");
}

static struct core_now
now(void)
{
	return (struct core_now){ loop_boot_us(w.f->loop), loop_wall_us(w.f->loop) };
}

/* As if a result had just been settled; until the entry is elsewhere. */
static void
rewrite(struct fixture *f)
{
	struct core_entry_facts e;
	struct store_row row;

	core_entry_get(w.core, w.entries[9], &e);
	if (e.epoch != w.places[9].epoch) {
		w.rewrites = false;
		return;
	}
	row = settle_row(&e);
	row.due_s = 77;
	committer_put_row(f->committer, COMMIT_SETTLE, e.key, &row);
}

static void
at_turn_end(struct fixture *f)
{
	segments_flush(w.segments);
	if (w.rewrites)
		rewrite(f);
}

static void
at_commit(struct fixture *f)
{
	struct segments_counts counts;

	(void)f;
	segments_counts(w.segments, &counts);
	/* All victims, and one that is neither free nor sealed. */
	if (w.meanwhile != NULL && counts.files - counts.unused > VICTIMS + 0u &&
	    counts.thin == VICTIMS) {
		w.meanwhile(&w);
		w.meanwhile = NULL;
	}
	segments_flush(w.segments);
}

/* The body says whose it is. */
static void
body_of(char dst[64], msg_id_t id)
{
	snprintf(dst, 64, "Subject: %llu\r\n\r\nthe body of it\r\n", (unsigned long long)id);
}

static int64_t
append(struct segment_writer *s, msg_id_t id)
{
	struct record_envelope env = { .id = id, .sender = SLICE_LIT("s@e") };
	char body[64], zeros[RECORD_ALIGN] = { 0 };
	struct iovec iov[3];
	struct slice piece;
	struct buf b = { 0 };
	int64_t at;

	body_of(body, id);
	piece = slice_str(body);
	record_encode(&b, &env, 0, &piece, 1);
	record_stamp(b.data, s->info.epoch);
	iov[0] = (struct iovec){ b.data, b.len };
	iov[1] = (struct iovec){ body, piece.n };
	iov[2] = (struct iovec){ zeros, record_padding(b.len, piece.n) };
	at = segment_append(s, iov, 3);
	buf_clear(&b);
	return at;
}

/* Entries i and i + 1 of an odd pair share a message: ordinals 0 and 1. */
static struct entry_key
key_of(unsigned i)
{
	return (struct entry_key){ 100 + i / 2, (uint16_t)(i % 2) };
}

static void
add_entry(unsigned i, const struct segment_writer *s, int64_t offset)
{
	struct core_now t = now();
	struct core_entry_facts f = {
		.key = key_of(i),
		.queue = 1,
		.segment = s->info.number,
		.epoch = s->info.epoch,
		.offset16 = (uint32_t)(offset / RECORD_ALIGN),
		.received_s = BEFORE_S,
		.due_s = i % 3 == 0 ? 0 : LATER_S,
		.n_rcpts = 1,
		.attempts = 2,
		.kbytes = 1,
		.committed = true,
	};
	struct store_row row = { .queue = 1,
				 .segment = f.segment,
				 .epoch = f.epoch,
				 .offset = f.offset16,
				 .due_s = f.due_s,
				 .received_s = BEFORE_S,
				 .attempts = 2,
				 .n_rcpts = 1,
				 .kbytes = 1 };

	w.entries[i] = core_entry_add(w.core, &t, &f);
	w.places[i] = (struct place){ f.segment, f.offset16, f.epoch };
	segments_restore_entry(w.segments, f.segment, f.epoch, f.kbytes);
	committer_put_row(w.f->committer, COMMIT_SETTLE, f.key, &row);
}

static void
fill_segments(void)
{
	const unsigned each = ENTRIES / VICTIMS;
	int dir = w.f->spool.segments_fd;

	for (uint32_t n = 1; n <= VICTIMS; n++) {
		struct store_segment row = { .epoch = n,
					     .bytes = SEGMENT_BYTES,
					     .state = STORE_SEGMENT_SEALED };
		struct segment_writer s;

		assert_int_equal(segment_reserve(dir, n, SEGMENT_BYTES, w.f->spool.instance), 0);
		assert_int_equal(segment_stamp(dir, n, n, w.f->spool.instance), 0);
		assert_int_equal(segment_writer_open(&s, dir, n, n, w.f->spool.instance), 0);
		segments_restore(w.segments, n, &row);
		for (unsigned i = (n - 1) * each; i < n * each; i += 2) {
			int64_t offset;

			append(&s, 7); /* long delivered */
			offset = append(&s, key_of(i).message);
			add_entry(i, &s, offset);
			add_entry(i + 1, &s, offset);
		}
		assert_int_equal(segment_sync(&s), 0);
		segment_writer_close(&s);
	}
}

static void
poll(void *arg)
{
	struct compaction_counts counts;

	(void)arg;
	compaction_tick(w.compaction);
	compaction_counts(w.compaction, &counts);
	if (++w.polls > GAVE_UP)
		fail_msg("%llu records moved, %llu segments emptied",
			 (unsigned long long)counts.records, (unsigned long long)counts.segments);
	if (counts.records >= w.want_records && counts.segments >= w.want_segments &&
	    committer_is_idle(w.f->committer))
		loop_stop(w.f->loop);
	else
		timer_set(&w.timer, 20000);
}

static void
make(void)
{
	static const struct core_ops ops = { .settings = op_settings, .queue_changed = op_changed };
	static const struct core_world world = { .workers = 1,
						 .total_max_smtp_out = CONF_UNLIMITED,
						 .n_source_ips = 1 };
	struct store_meta meta = {
		.next_message_id = 1000, .next_epoch = 50, .next_lsn = 1, .next_lease = 1
	};

	memset(&w, 0, sizeof w);
	w.f = fx_make(&meta, 64u << 20);
	w.wall_s = (uint32_t)(loop_wall_us(w.f->loop) / 1000000u);
	w.f->at_turn_end = at_turn_end;
	w.f->at_commit = at_commit;
	timer_init(&w.timer, w.f->loop, poll, NULL);
	w.core = core_new_in(&ops, NULL, &world, 1);
	core_queue_add(w.core, 1, SLICE_LIT("d.example/{default}"));
	w.segments = segments_new(w.f->loop, w.f->committer, w.f->spool.segments_fd,
				  w.f->spool.instance, opened, NULL);
	fill_segments();
	segments_start(w.segments);
	w.compaction = compaction_new(&(struct compaction_world){
		.loop = w.f->loop,
		.core = w.core,
		.committer = w.f->committer,
		.segments = w.segments,
		.dir = w.f->spool.segments_fd,
		.instance = w.f->spool.instance,
	});
}

static void
end(void)
{
	timer_clear(&w.timer);
	compaction_free(&w.compaction);
	segments_free(&w.segments);
	core_check(w.core);
	core_free(&w.core);
	fx_remove(w.f);
}

/* Until so much was moved and is committed. */
static void
run_until(unsigned records, unsigned segments)
{
	w.want_records = records;
	w.want_segments = segments;
	w.polls = 0;
	timer_set(&w.timer, 20000);
	fx_run(w.f);
}

static void
load_row(void *arg, struct entry_key key, const struct store_row *row)
{
	(void)arg;
	for (unsigned i = 0; i < ENTRIES; i++) {
		if (key_of(i).message != key.message || key_of(i).ordinal != key.ordinal)
			continue;
		w.rows[i] = *row;
		w.has_row[i] = true;
	}
}

static void
load_rows(void)
{
	uint64_t bad = 0;

	memset(w.has_row, 0, sizeof w.has_row);
	assert_int_equal(store_load_rows(w.f->store, load_row, NULL, &bad), 0);
	assert_int_equal(bad, 0);
}

/* Index and row name one place, and there is the record. */
static void
check_place(unsigned i, bool moved)
{
	struct segment_cache *cache =
		segment_cache_new(w.f->spool.segments_fd, w.f->spool.instance);
	struct core_entry_facts f;
	struct segment_ref ref;
	struct record rec;
	char body[64];

	core_entry_get(w.core, w.entries[i], &f);
	assert_true(w.has_row[i]);
	if ((f.epoch == w.places[i].epoch) == moved)
		fail_msg("entry %u lies in segment %u, was in %u", i, f.segment,
			 w.places[i].segment);
	assert_int_equal(w.rows[i].segment, f.segment);
	assert_int_equal(w.rows[i].offset, f.offset16);
	assert_int_equal(w.rows[i].epoch, f.epoch);
	assert_int_equal(w.rows[i].kbytes, 1);
	assert_int_equal(w.rows[i].received_s, BEFORE_S);
	assert_int_equal(segment_get(cache, f.segment, f.epoch, &ref), 0);
	assert_int_equal(record_decode(&rec,
				       slice_sub(ref.bytes, (size_t)f.offset16 * RECORD_ALIGN),
				       f.epoch, f.key.message),
			 0);
	body_of(body, f.key.message);
	assert_true(slice_eq(rec.body, slice_str(body)));
	record_clear(&rec);
	segment_put(cache, f.segment, f.epoch);
	segment_cache_free(&cache);
}

static bool
has_file(uint32_t number)
{
	struct segment_info info;

	return segment_read_info(w.f->spool.segments_fd, number, w.f->spool.instance, &info) == 0;
}

static void
all_move(void **state)
{
	struct compaction_counts counts;
	struct segments_counts files;
	uint32_t shared;

	(void)state;
	make();
	run_until(ENTRIES, VICTIMS);
	load_rows();
	for (unsigned i = 0; i < ENTRIES; i++) {
		check_place(i, true);
		/* Those that were due do not become new ones. */
		assert_int_equal(w.rows[i].attempts, 2);
		assert_true(w.rows[i].due_s != 0);
		assert_true(i % 3 == 0 || w.rows[i].due_s == LATER_S);
	}
	shared = w.rows[0].offset;
	assert_int_equal(w.rows[1].offset, shared); /* one record, copied once */
	compaction_counts(w.compaction, &counts);
	assert_int_equal(counts.records, ENTRIES);
	assert_true(counts.bytes < ENTRIES / 2 * 1024);
	segments_counts(w.segments, &files);
	assert_int_equal(files.files - files.unused, 1);
	end();
}

/* Claimed, withdrawn, gone and added anew, rewritten: each in its own segment. */
static void
change_some(struct world *world)
{
	struct core_now t = now();
	struct core_entry_facts f;

	core_adopt(world->core, &t, world->entries[0], 9, CORE_NONE, 0, 0);
	assert_true(core_entry_is_claimed(world->core, world->entries[0]));
	assert_true(core_entry_withdraw(world->core, &t, world->entries[4]));
	core_entry_get(world->core, world->entries[5], &f);
	assert_true(core_entry_withdraw(world->core, &t, world->entries[5]));
	core_entry_gone(world->core, &t, world->entries[5]);
	world->entries[5] = core_entry_add(world->core, &t, &f);
	world->rewrites = true;
}

static void
changed_meanwhile(void **state)
{
	struct core_now t;

	(void)state;
	make();
	w.meanwhile = change_some;
	/* The third segment is emptied; then the first and the second have entries that stay. */
	run_until(ENTRIES - 2, 1);
	assert_null(w.meanwhile);
	load_rows();
	for (unsigned i = 0; i < ENTRIES; i++)
		check_place(i, i != 0 && i != 4);
	assert_int_not_equal(w.rows[9].due_s, 77); /* the move comes behind it */
	assert_true(has_file(1) && has_file(2));
	/* The claim ends, the deletion too: nothing holds the old files. */
	t = now();
	assert_true(core_returned(w.core, &t, w.entries[0], 9));
	core_entry_gone(w.core, &t, w.entries[4]);
	segments_live(w.segments, 2, -1, 1);
	w.entries[4] = w.entries[5];
	run_until(ENTRIES - 1, 2);
	load_rows();
	check_place(0, true);
	end();
}

/* A record that fails its checks stays where it is, and its segment is left alone from then on. */
static void
spoilt_record(void **state)
{
	int fd;

	(void)state;
	make();
	fd = openat(w.f->spool.segments_fd, "00000002.seg", O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "x", 1, (off_t)w.places[4].offset16 * RECORD_ALIGN + 90), 1);
	close(fd);
	run_until(ENTRIES - 2, 2);
	load_rows();
	for (unsigned i = 0; i < ENTRIES; i++) {
		if (i != 4 && i != 5)
			check_place(i, true);
	}
	assert_int_equal(w.rows[4].segment, 2);
	assert_int_equal(w.rows[5].segment, 2);
	assert_true(has_file(2));
	/* Nothing is left that would be tried again and again. */
	for (int i = 0; i < 5; i++) {
		struct segments_thin thin[8];

		assert_in_range(segments_thin(w.segments, 0, thin, 8), 0, 1);
		run_until(0, 0);
	}
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_move),
		cmocka_unit_test(changed_meanwhile),
		cmocka_unit_test(spoilt_record),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A stat object as an image of any bytes: opened, all getters asked, all three outputs made. */
#include <stdint.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/err.h"
#include "shm/stat.h"
#include "shm/stat_view.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Rows past the last one are asked for too. */
static void
ask_everything(const struct stat_object *o)
{
	struct stat_info info;
	struct stat_totals totals;
	struct stat_queue q;
	struct stat_source s;
	struct stat_limit l;

	CHECK(stat_get_info(o, &info) == 0);
	CHECK(info.queues_used <= STAT_QUEUE_ROWS && info.sources_used <= STAT_SOURCE_ROWS);
	CHECK(memchr(info.build, '\0', sizeof info.build) != NULL);
	(void)stat_get_totals(o, &totals, stat_totals_bytes(info.writer));
	CHECK(stat_get_totals(o, &totals, 1) == -E_FORMAT);
	for (uint32_t row = 0; row < info.queues_used + 2; row++)
		if (stat_get_queue(o, row, &q) == 0)
			CHECK(memchr(q.name, '\0', sizeof q.name) != NULL &&
			      memchr(q.backoffReason, '\0', sizeof q.backoffReason) != NULL);
	for (uint32_t row = 0; row < info.sources_used + 2; row++)
		if (stat_get_source(o, row, &s) == 0)
			CHECK(memchr(s.ip, '\0', sizeof s.ip) != NULL);
	CHECK(info.limits_used <= STAT_LIMIT_ROWS);
	for (uint32_t row = 0; row < info.limits_used + 2; row++)
		if (stat_get_limit(o, row, &l) == 0)
			CHECK(memchr(l.object, '\0', sizeof l.object) != NULL &&
			      memchr(l.value, '\0', sizeof l.value) != NULL);
	CHECK(stat_get_limit(o, UINT32_MAX, &l) == -E_MISSING);
	CHECK(stat_get_queue(o, STAT_QUEUE_ROWS, &q) == -E_MISSING);
	CHECK(stat_get_source(o, UINT32_MAX, &s) == -E_MISSING);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stat_object *o = NULL;
	struct stat_view *v;
	struct buf out = { 0 };
	static struct stat_view view;

	if (size > 65536 || stat_open_image(&o, data, size) != 0)
		return 0;
	ask_everything(o);
	v = &view;
	memset(v, 0, sizeof *v);
	stat_view_add(v, o);
	stat_view_json(v, 1, &out);
	stat_view_prometheus(v, 1, &out);
	stat_view_text(v, 1, 1, 50, &out);
	stat_view_clear(v);
	buf_clear(&out);
	stat_close(&o);
	return 0;
}

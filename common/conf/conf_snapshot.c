#include "common/conf/conf_snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "common/conf/conf_lex.h"

#define INCLUDE_DEPTH_MAX 10

struct reader {
	struct buf *out;
	const char **names; /* files taken so far, by resolved path */
	size_t n, cap;
};

static void
put_file(struct buf *out, const char *name, struct slice content)
{
	wire_put_u8(out, CONF_SNAPSHOT_FILE);
	wire_put_bytes(out, slice_str(name));
	wire_put_bytes(out, content);
}

__attribute__((format(printf, 4, 5))) static void
put_fault(struct buf *out, const char *name, unsigned line, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	wire_put_u8(out, CONF_SNAPSHOT_FAULT);
	wire_put_bytes(out, slice_str(name));
	wire_put_u32(out, line);
	wire_put_bytes(out, slice_str(text));
}

/* The bytes of the regular file `path` behind those in *b. 0 or -E_*. */
static int
read_all(const char *path, struct buf *b)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = 0;
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return -err_errno();
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		rc = -E_FORMAT;
		goto out;
	}
	do {
		n = read(fd, buf_room(b, 65536), 65536);
		if (n > 0)
			buf_added(b, (size_t)n);
		if (b->len > CONF_FILE_BYTES_MAX) {
			rc = -E_TOO_BIG;
			goto out;
		}
	} while (n > 0 || (n < 0 && errno == EINTR));
	if (n < 0)
		rc = -err_errno();
out:
	close(fd);
	return rc;
}

/* `path` beside the file that names it; the caller frees. */
static char *
path_beside(const char *file, struct slice path)
{
	const char *slash = strrchr(file, '/');
	struct buf b = { 0 };
	char *full;

	if (path.n > 0 && path.p[0] != '/' && slash != NULL)
		buf_put(&b, file, (size_t)(slash - file) + 1);
	buf_put_slice(&b, path);
	full = mem_memdup0(buf_slice(&b).p, b.len);
	buf_clear(&b);
	return full;
}

static int read_file(struct reader *r, const char *path, unsigned depth);

static bool
seen(const struct reader *r, const char *path)
{
	for (size_t i = 0; i < r->n; i++) {
		if (strcmp(r->names[i], path) == 0)
			return true;
	}
	return false;
}

static void
include_one(struct reader *r, const char *from, unsigned line, const char *path, unsigned depth)
{
	int rc;

	if (seen(r, path)) {
		put_fault(r->out, from, line, "include \"%s\": the file is included already", path);
		return;
	}
	if (r->n >= CONF_FILES_MAX || depth >= INCLUDE_DEPTH_MAX) {
		put_fault(r->out, from, line, "include \"%s\": more than %d files or %d levels",
			  path, CONF_FILES_MAX, INCLUDE_DEPTH_MAX);
		return;
	}
	rc = read_file(r, path, depth + 1);
	if (rc < 0)
		put_fault(r->out, from, line, "include \"%s\": %s", path, err_text(rc));
}

/* One string of an include list: a file, or a pattern that may match nothing. */
static void
include_pattern(struct reader *r, const char *from, const struct conf_token *t, unsigned depth)
{
	char *path = path_beside(from, t->text);
	glob_t g;

	if (strpbrk(path, "*?[") == NULL) {
		include_one(r, from, t->line, path, depth);
	} else if (glob(path, 0, NULL, &g) == 0) { /* sorted */
		for (size_t i = 0; i < g.gl_pathc; i++)
			include_one(r, from, t->line, g.gl_pathv[i], depth);
		globfree(&g);
	}
	mem_free(path);
}

/* Follows `include = [ "...", ... ];` outside of all brackets. */
static void
follow_includes(struct reader *r, const char *path, struct slice content, unsigned depth)
{
	struct conf_lex x;
	struct conf_token t;
	unsigned open = 0, in_list = 0; /* brackets; depth of the include list, 0 outside */
	enum { NONE, NAMED, WANTED } state = NONE;

	conf_lex_init(&x, content);
	for (t = conf_lex_next(&x); t.kind != CONF_TOKEN_END; t = conf_lex_next(&x)) {
		if (t.kind == CONF_TOKEN_NAME)
			state = open == 0 && slice_is(t.text, "include") ? NAMED : NONE;
		else if (t.kind == CONF_TOKEN_STRING && (state == WANTED || in_list > 0))
			include_pattern(r, path, &t, depth);
		else if (t.kind == CONF_TOKEN_OPEN_STRING || t.kind == CONF_TOKEN_OPEN_COMMENT)
			return;
		if (t.kind != CONF_TOKEN_MARK) {
			state = state == WANTED ? NONE : state;
			continue;
		}
		switch (t.text.p[0]) {
		case '=':
		case ':':
			state = state == NAMED ? WANTED : NONE;
			break;
		case '[':
		case '(':
		case '{':
			open++;
			if (state == WANTED && t.text.p[0] != '{')
				in_list = open;
			state = NONE;
			break;
		case ']':
		case ')':
		case '}':
			if (in_list == open)
				in_list = 0;
			open -= open > 0;
			break;
		default:
			break;
		}
	}
}

static int
read_file(struct reader *r, const char *path, unsigned depth)
{
	struct buf content = { 0 };
	int rc = read_all(path, &content);
	void *v = r->names;

	if (rc == 0) {
		mem_grow(&v, &r->cap, r->n + 1, sizeof *r->names);
		r->names = v;
		r->names[r->n++] = mem_strdup(path);
		put_file(r->out, path, buf_slice(&content));
		follow_includes(r, path, buf_slice(&content), depth);
	}
	buf_clear(&content);
	return rc;
}

int
conf_snapshot_read(const char *path, struct buf *snapshot, struct conf_report *r)
{
	struct reader reader = { .out = snapshot };
	int rc;

	wire_put_u32(snapshot, CONF_SNAPSHOT_MAGIC);
	rc = read_file(&reader, path, 0);
	if (rc < 0) {
		buf_printf(&r->text, "%s:1: the file cannot be read: %s\n", path, err_text(rc));
		r->n_errors++;
	}
	for (size_t i = 0; i < reader.n; i++)
		mem_free((char *)reader.names[i]);
	mem_free(reader.names);
	return rc;
}

void
conf_snapshot_text(struct buf *snapshot, const char *name, struct slice content)
{
	wire_put_u32(snapshot, CONF_SNAPSHOT_MAGIC);
	put_file(snapshot, name, content);
}

void
conf_snapshot_add_rules(struct buf *snapshot, struct slice compiled)
{
	wire_put_u8(snapshot, CONF_SNAPSHOT_RULES);
	wire_put_bytes(snapshot, SLICE_NONE);
	wire_put_bytes(snapshot, compiled);
}

bool
conf_snapshot_each(struct slice snapshot,
		   void (*fn)(void *arg, enum conf_snapshot_kind kind, struct slice name,
			      unsigned line, struct slice text),
		   void *arg)
{
	struct wire_reader w;
	size_t files = 0;

	wire_read_init(&w, snapshot);
	if (wire_u32(&w) != CONF_SNAPSHOT_MAGIC)
		return false;
	while (!w.bad && wire_left(&w) > 0) {
		uint8_t kind = wire_u8(&w);
		struct slice name = wire_bytes(&w, 8192), text;
		unsigned line = kind == CONF_SNAPSHOT_FAULT ? wire_u32(&w) : 0;

		text = wire_bytes(&w, kind == CONF_SNAPSHOT_RULES ? CONF_RULES_BYTES_MAX : CONF_FILE_BYTES_MAX);
		if (w.bad || kind < CONF_SNAPSHOT_FILE || kind > CONF_SNAPSHOT_RULES ||
		    (kind != CONF_SNAPSHOT_FILE && files == 0))
			return false;
		files += kind == CONF_SNAPSHOT_FILE;
		fn(arg, (enum conf_snapshot_kind)kind, name, line, text);
	}
	return !w.bad && files > 0 && files <= CONF_FILES_MAX;
}

#include "common/queue/store.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/queue/store_impl.h"

#define STORE_VERSION 1
#define MADE_FILE     "made"
#define WIDEN_PERCENT 80 /* a map used so far is opened with more */

static const char identity_key[] = "instance";

static int
open_tables(struct store *s, MDB_txn *txn)
{
	int rc;

#define X(name)                                                                                    \
	rc = mdb_dbi_open(txn, #name, MDB_CREATE, &s->name);                                       \
	if (rc != 0)                                                                               \
		return store_error(rc, "open " #name);
	STORE_TABLES(X)
#undef X
	return 0;
}

/* Writes the instance into a new environment, compares it in an old one. */
static int
check_identity(struct store *s, MDB_txn *txn, const unsigned char instance[16], bool made)
{
	struct store_txn t = { .store = s, .txn = txn };
	MDB_val key = { sizeof identity_key - 1, (void *)(uintptr_t)identity_key };
	unsigned char id[20];
	uint32_t version = htole32(STORE_VERSION);
	MDB_val value;
	struct slice rest;
	int rc;

	memcpy(id, instance, 16);
	memcpy(id + 16, &version, 4);
	rc = mdb_get(txn, s->meta, &key, &value);
	if (rc == MDB_NOTFOUND) {
		MDB_stat st;

		/* No name in an environment that holds rows, or was complete once: the name was
		 * lost, or it is not ours. */
		if (made || mdb_stat(txn, s->rows, &st) != 0 || st.ms_entries > 0)
			return -E_FORMAT;
		return store_put(&t, s->meta, key, id, sizeof id);
	}
	if (rc != 0)
		return store_error(rc, "identity");
	if (!store_value_check(key, value, &rest))
		return -E_CRC;
	if (rest.n != sizeof id || memcmp(rest.p + 16, &version, 4) != 0)
		return -E_FORMAT;
	return memcmp(rest.p, instance, 16) == 0 ? 0 : -E_FOREIGN;
}

static bool
holds_files(int dir, const char *name)
{
	struct dirent *de;
	bool any = false;
	DIR *d;
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return false;
	d = fdopendir(fd);
	if (d == NULL) {
		close(fd);
		return true; /* not known to be empty */
	}
	while (!any && (de = readdir(d)) != NULL)
		any = de->d_name[0] != '.';
	closedir(d);
	return any;
}

/* A file `made` says that the environment was complete once. Without it LMDB would take an emptied
 * or vanished data file for a new, empty queue; and where that has gone too, the segments and the
 * event log, which are begun only after it, tell. */
static int
check_made(const char *path, int dir, bool *made)
{
	struct stat st;
	bool has_data = fstatat(dir, "data.mdb", &st, 0) == 0 && st.st_size > 0;

	*made = faccessat(dir, MADE_FILE, F_OK, 0) == 0;
	if (has_data ||
	    (!*made && !holds_files(dir, "../segments") && !holds_files(dir, "../events")))
		return 0;
	log_error("store=%s/data.mdb refused=yes the rows are gone (missing or empty file) and the "
		  "spool is "
		  "not new; nothing was changed",
		  path);
	return -E_FORMAT;
}

/* At each start: one that was killed in here has left names that no sync covers yet. */
static int
write_made(int dir)
{
	int rc = fsync(dir) != 0 ? -err_errno() : 0; /* the data's name first */
	int fd = rc != 0 ? -1 : openat(dir, MADE_FILE, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);

	if (rc != 0)
		return rc;
	if (fd < 0)
		return -err_errno();
	if (fsync(fd) != 0 || fsync(dir) != 0)
		rc = -err_errno();
	close(fd);
	return rc;
}

/* A data file that is shorter than its own account of its pages would be a SIGBUS on first touch;
 * as zeros the missing pages are an error of LMDB's. (A file may rightly end a little early: pages
 * that were taken and given back in one transaction are never written.) */
static int
extend_data(struct store *s, int dir)
{
	MDB_envinfo info;
	MDB_stat st;
	struct stat file;
	off_t want;
	int fd, rc = 0;

	mdb_env_info(s->env, &info);
	mdb_env_stat(s->env, &st);
	want = (off_t)((info.me_last_pgno + 1) * st.ms_psize);
	if (fstatat(dir, "data.mdb", &file, 0) != 0)
		return -err_errno();
	if (file.st_size >= want)
		return 0;
	/* LMDB locks another file: closing a descriptor of this one drops nothing. */
	fd = openat(dir, "data.mdb", O_RDWR | O_CLOEXEC);
	if (fd < 0 || ftruncate(fd, want) != 0)
		rc = -err_errno();
	if (fd >= 0)
		close(fd);
	return rc;
}

/* What is queued must find room to be finished, however full the map is: it is only address space. The
 * quota counts from what was asked for. */
static int
widen_map(struct store *s)
{
	MDB_envinfo info;
	MDB_stat st;
	uint64_t used;

	mdb_env_info(s->env, &info);
	mdb_env_stat(s->env, &st);
	used = (info.me_last_pgno + 1) * st.ms_psize;
	if (used < s->map_bytes / 100 * WIDEN_PERCENT)
		return 0;
	return store_error(mdb_env_set_mapsize(s->env, used + s->map_bytes / 4), "widen");
}

int
store_env_open(struct store *s, const char *path, int dir, uint64_t map_bytes)
{
	int dead, rc;

	s->map_bytes = map_bytes;
	rc = mdb_env_create(&s->env);
	if (rc == 0)
		rc = mdb_env_set_maxdbs(s->env, 16);
	if (rc == 0)
		rc = mdb_env_set_mapsize(s->env, map_bytes);
	if (rc == 0)
		rc = mdb_env_open(s->env, path, MDB_NOTLS, 0640);
	if (rc != 0)
		return store_error(rc, "open");
	mdb_reader_check(s->env, &dead);
	rc = widen_map(s);
	return rc != 0 ? rc : extend_data(s, dir);
}

static int
open_all(struct store *s, const char *path, const unsigned char instance[16], uint64_t map_bytes)
{
	int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	MDB_txn *txn = NULL;
	bool made = false;
	int rc;

	if (dir < 0)
		return -err_errno();
	rc = check_made(path, dir, &made);
	if (rc == 0)
		rc = store_probe(path, dir);
	if (rc == 0)
		rc = store_env_open(s, path, dir, map_bytes);
	if (rc == 0)
		rc = store_error(mdb_txn_begin(s->env, NULL, 0, &txn), "begin");
	if (rc == 0)
		rc = open_tables(s, txn);
	if (rc == 0 && (rc = check_identity(s, txn, instance, made)) != 0)
		log_error("store=%s/data.mdb refused=yes its instance: %s; nothing was changed",
			  path, err_text(rc));
	if (rc == 0) {
		rc = store_error(mdb_txn_commit(txn), "commit");
		txn = NULL;
	}
	if (txn != NULL)
		mdb_txn_abort(txn);
	if (rc == 0)
		rc = write_made(dir);
	close(dir);
	return rc;
}

int
store_open_sized(struct store **out, const char *spool_path, const unsigned char instance[16],
		 uint64_t map_bytes)
{
	struct store *s = mem_zalloc(sizeof *s);
	char path[4200];
	int rc;

	snprintf(path, sizeof path, "%s/lmdb", spool_path);
	rc = open_all(s, path, instance, map_bytes);
	if (rc != 0) {
		store_close(&s);
		return rc;
	}
	*out = s;
	return 0;
}

int
store_open(struct store **out, const char *spool_path, const unsigned char instance[16])
{
	return store_open_sized(out, spool_path, instance, STORE_MAP_BYTES);
}

/* A store of before has no table of operators' acts, of redirects, of back-off; no table has number 0. */
static int
open_table(MDB_txn *txn, const char *name, MDB_dbi *dbi)
{
	int rc = mdb_dbi_open(txn, name, 0, dbi);

	if (rc != MDB_NOTFOUND ||
	    (strcmp(name, "acts") != 0 && strcmp(name, "redirects") != 0 && strcmp(name, "backoff") != 0))
		return rc;
	*dbi = 0;
	return 0;
}

static int
open_reading(struct store *s, const char *path, const unsigned char instance[16])
{
	MDB_txn *txn = NULL;
	int dead, rc = mdb_env_create(&s->env);

	if (rc == 0)
		rc = mdb_env_set_maxdbs(s->env, 16);
	if (rc == 0)
		rc = mdb_env_set_mapsize(s->env, STORE_MAP_BYTES);
	if (rc == 0)
		rc = mdb_env_open(s->env, path, MDB_RDONLY | MDB_NOTLS, 0640);
	if (rc == 0)
		rc = mdb_reader_check(s->env, &dead);
	if (rc == 0)
		rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
#define X(name)                                                                                    \
	if (rc == 0)                                                                               \
		rc = open_table(txn, #name, &s->name);
	STORE_TABLES(X)
#undef X
	rc = store_error(rc, "open for reading");
	if (rc == 0)
		rc = check_identity(s, txn, instance, true);
	if (rc == 0) {
		rc = store_error(mdb_txn_commit(txn), "commit"); /* keeps the tables open */
		txn = NULL;
	}
	if (txn != NULL)
		mdb_txn_abort(txn);
	return rc;
}

int
store_open_reading(struct store **out, const char *spool_path, const unsigned char instance[16])
{
	struct store *s = mem_zalloc(sizeof *s);
	char path[4200];
	int rc;

	snprintf(path, sizeof path, "%s/lmdb", spool_path);
	rc = open_reading(s, path, instance);
	if (rc != 0) {
		store_close(&s);
		return rc;
	}
	*out = s;
	return 0;
}

void
store_close(struct store **s)
{
	if (*s == NULL)
		return;
	if ((*s)->env != NULL)
		mdb_env_close((*s)->env);
	mem_free(*s);
	*s = NULL;
}

/* They lie in table 0, in values that begin with a count. */
uint64_t
store_free_pages(struct store *s)
{
	MDB_txn *txn;
	MDB_cursor *c;
	MDB_val k, v;
	uint64_t n = 0;

	if (mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn) != 0)
		return 0;
	if (mdb_cursor_open(txn, 0, &c) == 0) {
		while (mdb_cursor_get(c, &k, &v, MDB_NEXT) == 0) {
			size_t count;

			if (v.mv_size < sizeof count)
				continue;
			memcpy(&count, v.mv_data, sizeof count);
			n += count;
		}
		mdb_cursor_close(c);
	}
	mdb_txn_abort(txn);
	return n;
}

/* Of all tables, without what is on the free list. */
static uint64_t
pages_in_use(struct store *s)
{
	MDB_txn *txn;
	MDB_stat st;
	uint64_t n = 2; /* the two heads of the file */

	if (mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn) != 0)
		return 0;
#define ADD(table)                                                                                 \
	if (mdb_stat(txn, table, &st) == 0)                                                        \
		n += st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages;
#define X(name) ADD(s->name)
	STORE_TABLES(X)
#undef X
	ADD(0) /* the free list itself */
	ADD(1) /* the names of the tables */
#undef ADD
	mdb_txn_abort(txn);
	return n;
}

unsigned
store_fill_percent(struct store *s)
{
	MDB_stat st;
	uint64_t used, all;

	if (mdb_env_stat(s->env, &st) != 0)
		return 0;
	all = s->map_bytes / st.ms_psize;
	used = pages_in_use(s);
	return used >= all ? 100 : (unsigned)(used * 100 / all);
}

void
store_reserve(struct store *s, uint64_t ahead)
{
	MDB_envinfo info;
	MDB_stat st;
	uint64_t used;
	mdb_filehandle_t fd;

	if (mdb_env_info(s->env, &info) != 0 || mdb_env_stat(s->env, &st) != 0)
		return;
	used = (info.me_last_pgno + 1) * st.ms_psize;
	if (used + ahead / 2 <= s->reserved_bytes || mdb_env_get_fd(s->env, &fd) != 0)
		return;
	/* The file's length says what LMDB has used: it stays. Refused for want of room it is asked for again at the
	 * next commit; where it cannot be had at all, there is none. */
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)used, (off_t)ahead) == 0 || errno == EOPNOTSUPP)
		s->reserved_bytes = used + ahead;
}

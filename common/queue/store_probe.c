/* LMDB trusts its pages: a flipped bit in one of its own pointers is a fault of the process that
 * follows it. So a process that may die of it reads everything once, before the one that must not.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <errno.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/queue/store_impl.h"

#define PROBE_SECONDS 120 /* a circle of pages has no end */

/* Walks a table, touching all of it; what fails its checksum is the loader's to count. */
static void
walk(MDB_txn *txn, MDB_dbi table)
{
	MDB_cursor *c;
	MDB_val k, v;
	struct slice rest;

	if (mdb_cursor_open(txn, table, &c) != 0)
		return;
	while (mdb_cursor_get(c, &k, &v, MDB_NEXT) == 0)
		(void)store_value_check(k, v, &rest);
	mdb_cursor_close(c);
}

static void
read_all(struct store *s)
{
	MDB_txn *txn;
	MDB_dbi table;

	if (mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn) != 0)
		return;
#define X(name)                                                                                    \
	if (mdb_dbi_open(txn, #name, 0, &table) == 0)                                              \
		walk(txn, table);
	STORE_TABLES(X)
#undef X
	mdb_txn_abort(txn);
	(void)store_free_pages(s);
}

static _Noreturn void
child(const char *path, int dir, uint64_t map_bytes)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGABRT, SIGALRM, SIGFPE };
	struct rlimit no_core = { 0, 0 };
	struct store s = { 0 };

	/* A sanitizer's or the caller's handlers are not wanted for a death that is expected. */
	for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
		signal(faults[i], SIG_DFL);
	setrlimit(RLIMIT_CORE, &no_core);
	alarm(PROBE_SECONDS);
	/* An error is the parent's to meet again and to name; here only faults count. */
	if (store_env_open(&s, path, dir, map_bytes) == 0)
		read_all(&s);
	if (s.env != NULL)
		mdb_env_close(s.env);
	_exit(0);
}

int
store_probe(const char *path, int dir, uint64_t map_bytes)
{
	struct stat st;
	pid_t pid, got;
	int status;

	if (fstatat(dir, "data.mdb", &st, 0) != 0 || st.st_size == 0)
		return 0; /* new */
	pid = fork();
	if (pid < 0)
		return -err_errno();
	if (pid == 0)
		child(path, dir, map_bytes);
	do {
		got = waitpid(pid, &status, 0);
	} while (got < 0 && errno == EINTR);
	if (got != pid || !WIFSIGNALED(status))
		return 0; /* reaped by someone else's handler: no verdict */
	log_error("store=%s damaged=yes signal=%d", path, WTERMSIG(status));
	return -E_CRC;
}

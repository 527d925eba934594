#include "common/base/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"

#define LINE_BYTES 4096

static int log_fd = 2;
static bool to_syslog;
static const char *process_name = "sluice";
static int level_most = LOG_LEVEL_INFO;

int
log_open(const char *where, const char *who)
{
	int fd;

	process_name = who;
	if (strcmp(where, "stderr") == 0) {
		fd = 2;
	} else if (strcmp(where, "syslog") == 0) {
		openlog("sluice", LOG_PID | LOG_NDELAY, LOG_MAIL);
		to_syslog = true;
		return 0;
	} else {
		fd = open(where, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
		if (fd < 0)
			return -err_errno();
	}
	if (log_fd > 2)
		close(log_fd);
	to_syslog = false;
	log_fd = fd;
	return 0;
}

int
log_descriptor(void)
{
	return to_syslog ? -1 : log_fd;
}

void
log_who(const char *who)
{
	process_name = who;
}

void
log_threshold(enum log_level most)
{
	level_most = most;
}

void
log_line(enum log_level level, const char *fmt, ...)
{
	char line[LINE_BYTES];
	char iso[CLOCK_ISO_BYTES];
	size_t o = 0;
	va_list ap;
	int n;

	if ((int)level > level_most)
		return;
	if (log_fd == 2 && !to_syslog && !isatty(2)) /* as the journal wants it */
		o += (size_t)snprintf(line, sizeof line, "<%d>", (int)level);
	else if (!to_syslog)
		o += (size_t)snprintf(line, sizeof line, "%s ", clock_iso(iso, clock_wall_us()));
	o += (size_t)snprintf(line + o, sizeof line - o, "%s[%d]: ", process_name, (int)getpid());
	va_start(ap, fmt);
	n = vsnprintf(line + o, sizeof line - o - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	o += (size_t)n < sizeof line - o - 1 ? (size_t)n : sizeof line - o - 2;
	/* One event is one line, whatever slipped into an argument. */
	for (size_t i = 0; i < o; i++) {
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	}
	if (to_syslog) {
		syslog((int)level, "%.*s", (int)o, line);
		return;
	}
	line[o++] = '\n';
	if (write(log_fd, line, o) < 0)
		return; /* a log that cannot be written must not stop the mail */
}

/* log: one event, one line: `key=value ...`, ids first; foreign text escaped by the caller's %s
 * through str_escape(). Lines go to stderr with a `<N>` syslog priority, to a file, or to syslog. */
#pragma once

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARN = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

/* `where`: "stderr", "syslog" or a path (opened for append, 0640). `who` names the process in each
 * line and must live on. 0 or -E_*. May be called again. */
int log_open(const char *where, const char *who);
/* The descriptor that lines go to, for who closes all others; -1: syslog. */
int log_descriptor(void);
void log_who(const char *who);
void log_threshold(enum log_level most); /* what is above it is dropped; default INFO */

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

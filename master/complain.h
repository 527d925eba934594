/* complain: what goes wrong at the start, for whoever typed the command and for the log. */
#pragma once

/* What keeps the daemon from starting. */
void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* What it starts with all the same. */
void remark(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* notify: tells the service manager how we are (the sd_notify protocol: a datagram of VAR=value
 * lines to the socket that $NOTIFY_SOCKET names). Without one, nothing happens. */
#pragma once

#include <stdint.h>

/* Remembers where to tell (and takes it from the environment). Once, early. */
void notify_init(void);

/* Sends `state`, e.g. "READY=1\nMAINPID=12". A failure is nobody's business. */
void notify_send(const char *state);

/* How often "WATCHDOG=1" must be sent, half of $WATCHDOG_USEC; 0: never. */
uint64_t notify_watchdog_us(void);

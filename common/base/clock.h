/* clock: the three clocks, read once per turn of a loop and then passed on as values. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* CLOCK_BOOTTIME in µs: deadlines, rates, stamps; runs on through suspend, never steps. */
uint64_t clock_boot_us(void);
/* CLOCK_REALTIME in µs since 1970: display, Date, expiry. */
uint64_t clock_wall_us(void);
/* CPU time of this process in µs. */
uint64_t clock_cpu_us(void);

/* The kernel's boot id as 16 bytes; zero when it cannot be read. */
void clock_boot_id(unsigned char id[16]);

/* `2026-11-21T19:46:48Z` of a wall time; dst holds at least CLOCK_ISO_BYTES. */
#define CLOCK_ISO_BYTES 32
const char *clock_iso(char *dst, uint64_t wall_us);
/* `2026-11-21 19:46:48+0000`, PowerMTA's accounting form, in UTC. */
const char *clock_acct(char *dst, uint64_t wall_us);
/* RFC 5322 date-time, UTC: `Sat, 21 Nov 2026 19:46:48 +0000`. */
const char *clock_rfc5322(char *dst, uint64_t wall_us);

#include "common/base/clock.h"

#include <fcntl.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t
read_us(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

uint64_t
clock_boot_us(void)
{
	return read_us(CLOCK_BOOTTIME);
}

uint64_t
clock_wall_us(void)
{
	return read_us(CLOCK_REALTIME);
}

uint64_t
clock_cpu_us(void)
{
	return read_us(CLOCK_PROCESS_CPUTIME_ID);
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

void
clock_boot_id(unsigned char id[16])
{
	const char *test = getenv("SLUICE_TEST_BOOT_ID"); /* tests have no machine to boot */
	char text[64];
	ssize_t n;
	int nibble = 0;
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	memset(id, 0, 16);
	if (fd < 0)
		return;
	if (test != NULL)
		memcpy(id, test, strnlen(test, 16));
	n = read(fd, text, sizeof text);
	close(fd);
	for (ssize_t i = 0; test == NULL && i < n && nibble < 32; i++) {
		int d = hex_digit(text[i]);

		if (d < 0)
			continue;
		id[nibble / 2] = (unsigned char)(id[nibble / 2] << 4 | d);
		nibble++;
	}
}

static const char *
format_utc(char *dst, uint64_t wall_us, const char *fmt)
{
	time_t t = (time_t)(wall_us / 1000000u);
	struct tm tm;

	gmtime_r(&t, &tm);
	/* The formats are literals of this file. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	if (strftime(dst, CLOCK_ISO_BYTES, fmt, &tm) == 0)
		dst[0] = '\0';
#pragma GCC diagnostic pop
	return dst;
}

const char *
clock_iso(char *dst, uint64_t wall_us)
{
	return format_utc(dst, wall_us, "%Y-%m-%dT%H:%M:%SZ");
}

const char *
clock_acct(char *dst, uint64_t wall_us)
{
	return format_utc(dst, wall_us, "%Y-%m-%d %H:%M:%S+0000");
}

const char *
clock_rfc5322(char *dst, uint64_t wall_us)
{
	static const char *const days[] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
	static const char *const months[] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
					      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
	time_t t = (time_t)(wall_us / 1000000u);
	struct tm tm;

	gmtime_r(&t, &tm);
	snprintf(dst, CLOCK_ISO_BYTES, "%s, %02d %s %04d %02d:%02d:%02d +0000", days[tm.tm_wday % 7],
		 tm.tm_mday % 100, months[tm.tm_mon % 12], (tm.tm_year + 1900) % 10000, tm.tm_hour % 100,
		 tm.tm_min % 100, tm.tm_sec % 100);
	return dst;
}

#include "master/options.h"

#include <getopt.h>
#include <stdio.h>

#define CONF_DEFAULT "/etc/sluice/sluice.conf"

void
options_print_help(FILE *to)
{
	fputs("usage: sluiced [-c FILE] [-f] [-t]\n"
	      "  -c FILE         the configuration, default " CONF_DEFAULT "\n"
	      "  -f              stay in the foreground\n"
	      "  -t              check the configuration and exit\n"
	      "  --version       print the version\n"
	      "  --print-sample  print a sample configuration\n"
	      "  --print-manual  print the manual page of the configuration\n"
	      "It exits 0 after a clean stop, 2 on a bad configuration, 1 otherwise.\n",
	      to);
}

void
options_parse(struct options *out, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "version", no_argument, NULL, 'V' },
		{ "print-sample", no_argument, NULL, 'S' },
		{ "print-manual", no_argument, NULL, 'M' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	*out = (struct options){ .act = OPTIONS_RUN, .conf_path = CONF_DEFAULT };
	optind = 1;
	while ((c = getopt_long(argc, argv, "c:fth", longs, NULL)) != -1) {
		switch (c) {
		case 'c':
			out->conf_path = optarg;
			break;
		case 'f':
			out->foreground = true;
			break;
		case 't':
			out->act = OPTIONS_CHECK;
			break;
		case 'V':
			out->act = OPTIONS_VERSION;
			return;
		case 'S':
			out->act = OPTIONS_SAMPLE;
			return;
		case 'M':
			out->act = OPTIONS_MANUAL;
			return;
		case 'h':
			out->act = OPTIONS_HELP;
			return;
		default: /* getopt has told it */
			out->act = OPTIONS_WRONG;
			return;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "sluiced: unexpected argument `%s`\n", argv[optind]);
		out->act = OPTIONS_WRONG;
	}
}

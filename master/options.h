/* options: the command line of sluiced. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

enum options_act {
	OPTIONS_RUN,
	OPTIONS_CHECK, /* -t */
	OPTIONS_VERSION,
	OPTIONS_SAMPLE,
	OPTIONS_MANUAL,
	OPTIONS_HELP,
	OPTIONS_WRONG, /* told on stderr */
};

struct options {
	enum options_act act;
	const char *conf_path;
	bool foreground;
};

void options_parse(struct options *out, int argc, char **argv);
void options_print_help(FILE *to);

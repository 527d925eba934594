#include "ctl/command.h"

#include <stdio.h>
#include <string.h>

#include "common/base/err.h"

static const struct command commands[] = {
#define X(id, words, least, most, args, options, kind, help)                                       \
	{ COMMAND_ID_##id, words, least, most, args, options, COMMAND_##kind, help },
	COMMANDS(X)
#undef X
};

const struct command *
command_at(size_t i)
{
	return i < COMMAND_ID_COUNT ? &commands[i] : NULL;
}

/* How many of `words` the command's own words take; 0 when they do not fit. *exact counts those
 * that were written out. */
static size_t
fits(const struct command *c, const char *const *words, size_t n, size_t *exact)
{
	struct slice rest = slice_str(c->words);
	size_t used = 0;

	*exact = 0;
	while (rest.p != NULL) {
		struct slice own = slice_cut(&rest, ' ');
		size_t given = used < n ? strlen(words[used]) : 0;

		if (given == 0 || given > own.n || memcmp(own.p, words[used], given) != 0)
			return 0;
		*exact += given == own.n;
		used++;
	}
	return used;
}

/* The command that the first words name: the one with most of them written out, unless two have. */
static const struct command *
find(const char *const *words, size_t n, size_t *used, char *why, size_t why_bytes)
{
	const struct command *best = NULL, *rival = NULL;
	size_t best_exact = 0;

	for (size_t i = 0; i < COMMAND_ID_COUNT; i++) {
		size_t exact, took = fits(&commands[i], words, n, &exact);

		if (took == 0)
			continue;
		if (best != NULL && exact == best_exact) {
			rival = &commands[i];
		} else if (best == NULL || exact > best_exact) {
			best = &commands[i];
			rival = NULL;
			best_exact = exact;
			*used = took;
		}
	}
	if (best == NULL)
		snprintf(why, why_bytes, "no such command: %.80s%s%.80s (sluice --help lists them)",
			 words[0], n > 1 ? " " : "", n > 1 ? words[1] : "");
	else if (rival != NULL)
		snprintf(why, why_bytes, "ambiguous: \"%s\" or \"%s\"?", best->words, rival->words);
	return rival == NULL ? best : NULL;
}

/* Is `word` ("--name" or "--name=value") one of the command's options? */
static bool
option_fits(const struct command *c, const char *word)
{
	struct slice rest = slice_str(c->options);
	struct slice given = slice_str(word + 2);
	const char *equals = memchr(given.p, '=', given.n);

	if (equals != NULL)
		given.n = (size_t)(equals - given.p) + 1; /* "name=" */
	while (rest.p != NULL) {
		struct slice one = slice_cut(&rest, ' ');

		if (one.n > 0 && slice_eq(one, given))
			return true;
	}
	return false;
}

static int
check_rest(const struct command_line *line, char *why, size_t why_bytes)
{
	const struct command *c = line->command;
	unsigned args = 0;

	for (size_t i = line->own; i < line->n; i++) {
		if (line->words[i].n < 2 || memcmp(line->words[i].p, "--", 2) != 0) {
			args++;
		} else if (!option_fits(c, line->words[i].p)) {
			snprintf(why, why_bytes, "%s: unknown option %s", c->words,
				 line->words[i].p);
			return -E_BAD;
		}
	}
	if (args >= c->least && args <= c->most)
		return 0;
	snprintf(why, why_bytes, "usage: sluice %s %s", c->words, c->args);
	return -E_BAD;
}

int
command_parse(struct command_line *out, const char *const *words, size_t n, char *why,
	      size_t why_bytes)
{
	struct slice rest;
	size_t used = 0;

	memset(out, 0, sizeof *out);
	if (n == 0) {
		snprintf(why, why_bytes, "a command is missing");
		return -E_BAD;
	}
	if (n > OPERATOR_WORDS_MAX - 2) {
		snprintf(why, why_bytes, "too many words");
		return -E_BAD;
	}
	out->command = find(words, n, &used, why, why_bytes);
	if (out->command == NULL)
		return -E_BAD;
	rest = slice_str(out->command->words);
	while (rest.p != NULL)
		out->words[out->n++] = slice_cut(&rest, ' ');
	out->own = out->n;
	for (size_t i = used; i < n; i++)
		out->words[out->n++] = slice_str(words[i]);
	return check_rest(out, why, why_bytes);
}

const char *
command_argument(const struct command_line *line, size_t i)
{
	for (size_t k = line->own; k < line->n; k++) {
		if (line->words[k].n >= 2 && memcmp(line->words[k].p, "--", 2) == 0)
			continue;
		if (i-- == 0)
			return line->words[k].p;
	}
	return NULL;
}

const char *
command_option(const struct command_line *line, const char *name)
{
	size_t n = strlen(name);

	for (size_t k = line->own; k < line->n; k++) {
		const char *w = line->words[k].p;

		if (strncmp(w, "--", 2) != 0 || strncmp(w + 2, name, n) != 0)
			continue;
		if (w[2 + n] == '=' || w[2 + n] == '\0')
			return w[2 + n] == '=' ? w + 3 + n : "";
	}
	return NULL;
}

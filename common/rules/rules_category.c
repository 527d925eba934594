#include "common/rules/rules_category.h"

const char *
rules_bounce_category(const char *category)
{
	static const struct {
		const char *ours, *theirs;
	} rows[] = {
#define X(ours, theirs) { ours, theirs },
		RULES_CATEGORY_TABLE(X)
#undef X
	};

	if (category == NULL)
		return "other";
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		if (strcmp(rows[i].ours, category) == 0)
			return rows[i].theirs;
	}
	return category;
}

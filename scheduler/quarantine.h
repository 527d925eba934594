/* quarantine: entries that are kept, shown and never sent: their row, their queue's name or their
 * record is damaged. An operator looks, and deletes.
 *
 * Nothing is kept beside the store: a row whose checksum fails stays as it is and is met again at
 * each start; one whose record is damaged carries STORE_ROW_QUARANTINED. As long as an entry is
 * here its segment is not used again. */
#pragma once

#include "scheduler/state.h"

enum quarantine_why {
	QUARANTINE_ROW,    /* the row fails its checksum: what it says is a guess */
	QUARANTINE_NAME,   /* its queue has no name, and the record gives none */
	QUARANTINE_RECORD, /* the record fails its checks or cannot be read */
};

struct quarantine_counts {
	uint64_t entries, rcpts; /* unfinished ones; one of an entry whose row is damaged */
};

void quarantine_open(struct scheduler *s);
void quarantine_close(struct scheduler *s);

/* While loading: a row that is not to be sent. */
void quarantine_row(struct scheduler *s, enum quarantine_why why, struct entry_key key,
		    const struct store_row *row);
/* After it: where the damaged ones lie is found out, and queue names that were lost are taken from
 * the records; such entries come back through `load`, with another queue number. `bad`: rows failed
 * their checksum. */
int quarantine_loaded(struct scheduler *s, bool bad,
		      void (*load)(void *arg, struct entry_key key, const struct store_row *row));

/* An entry that is queued, or leaving: it is here from now on, `row` is what is kept of it. The
 * caller has logged the event that says so. */
void quarantine_entry(struct scheduler *s, uint32_t entry, struct entry_key key,
		      const struct store_row *row);

struct quarantine_counts quarantine_counts(const struct scheduler *s);

struct request;
/* `list --quarantined`, `delete --quarantined`. */
bool quarantine_select(struct request *r, bool deleting);

/* conf_load: the files of a snapshot read by libconfig and merged into one tree. The only module
 * that knows the library. */
#pragma once

#include "common/conf/conf_msgs.h"
#include "common/conf/conf_tree.h"

struct conf_file {
	const char *name;
	struct slice content; /* borrowed from the snapshot */
	unsigned broken_at;   /* line of its syntax error; 0: none */
};

struct conf_todo {
	const struct conf_directive *d;
	const char *where; /* its first place */
	unsigned file, line;
	unsigned more; /* further places */
};

struct conf_loader {
	struct conf_arena *arena;
	struct conf_msgs *msgs;
	struct conf_file *files;
	size_t n_files;
	struct conf_block *root;
	struct conf_known *known; /* blocks by parent, scope and key */
	struct conf_todo *todo;   /* what is not supported yet, each once */
	size_t n_todo, cap_todo;
	bool compiled; /* the rules' patterns were checked when they were compiled */
};

/* Fills x->root from x->files. Errors go to x->msgs. */
void conf_load(struct conf_loader *x);
/* The block of that key (in any case of letters), or NULL. */
struct conf_block *conf_load_find(struct conf_loader *x, const struct conf_block *parent,
				  enum conf_scope_id scope, struct slice key);
/* Reports that neither `scope` nor `other` (the same, if there is one only) has a block called
 * `name`, unless it may stand behind the syntax error of a file. */
void conf_load_undefined(struct conf_loader *x, unsigned file, unsigned line, struct slice name,
			 enum conf_scope_id scope, enum conf_scope_id other);
void conf_load_clear(struct conf_loader *x);

/* conf_impl: what struct conf holds; for the modules of this folder. */
#pragma once

#include "common/conf/conf.h"
#include "common/conf/conf_arena.h"
#include "common/conf/conf_load.h"
#include "common/conf/conf_net.h"
#include "common/conf/conf_schema.h"
#include "common/conf/conf_tree.h"

/* A client rule: by address, or by name. */
struct conf_client_rule {
	const struct conf_block *block;
	bool by_name;
	struct conf_cidr cidr;
};

/* Rows that more than one module treats by hand. */
struct conf_rows {
	const struct conf_directive *type, *allow_destinations, *bounce_upon_no_mx, *pattern_list, *recover;
	const struct conf_directive *backoff_notify, *source_notify;
	const struct conf_directive *add_date_header, *global_allow_destinations;
};

struct conf {
	struct conf_arena arena;
	unsigned owners;
	unsigned n_backoff_notify, n_source_notify; /* conf_notify_lists() */
	void *map; /* of the snapshot, NULL: none of ours */
	size_t map_bytes;
	struct conf_block *root;
	const char **files; /* names */
	size_t n_files;
	struct conf_rows rows;

	struct conf_global global;
	struct conf_listener *listeners;
	size_t n_listeners;
	struct conf_source_ip *source_ips;
	size_t n_source_ips, cap_source_ips;
	struct conf_vmta *vmtas;
	size_t n_vmtas;
	int *vmta_pool; /* of each virtual MTA: the pool whose domains it inherits, -1 if none */
	struct conf_pool *pools;
	size_t n_pools;
	struct conf_acct_file *acct_files;
	size_t n_acct_files;
	struct conf_named *names;
	struct conf_provider *providers;
	size_t n_providers;
	struct conf_limits *jobs, *senders;
	const struct conf_per *mx_connections, *ip_connections; /* NULL: not given */
	struct conf_rollup_queue *rollups; /* in the order of the files */
	struct conf_rule *rules;
	size_t n_rules;
	struct conf_rule_list *rule_lists;
	size_t n_rule_lists;
	struct slice compiled; /* rules, in the snapshot */
	bool has_queue_to;		   /* some domain block has queue-to */
	bool has_source_limits; /* some domain block has source-ip-... directives */

	uint64_t longest_window;

	struct conf_client_rule *client_rules; /* by address: the wider prefix first; then those by name */
	size_t n_client_rules;
	struct conf_client client_defaults;
	struct conf_queue queue_defaults;
	struct conf_patterns *patterns;
};

/* Stores a typed value into the field that its row is bound to; false when it is bound to none. */
bool conf_store(void *base, const struct conf_value *v);

/* The longest window of the rates of a value, of a block and all below it. */
uint64_t conf_window_of(const struct conf_value *v);
uint64_t conf_window_longest(const struct conf_block *b);

/* Fills *c from a tree that has no error. Warnings go to x->msgs. */
void conf_build(struct conf *c, struct conf_loader *x);

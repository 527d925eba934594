/* planted: faults that the simulator (tests/sim) must find; compiled in for its own build alone. */
#pragma once

// clang-format off
#define PLANTED_FAULTS(X) \
	X(replay_start,   "the replay begins one event late") \
	X(replay_none,    "the replay is forgotten") \
	X(row_first,      "the row of a settled entry is committed beside its event, not after it") \
	X(recycle_early,  "a segment is free before the commit that forgot its last row") \
	X(no_mark,        "a segment's row does not say how far it is committed") \
	X(ack_early,      "a message is acknowledged before its commit") \
	X(slot_early,     "a claim slot is freed before its event is synced") \
	X(flip_unkept,    "a queue's mode is not in the commit of its event") \
	X(flip_left,      "mail of a flip that was cut short stays where it is") \
	X(flip_untold,    "a queue with another number is not known to be in back-off")
// clang-format on

#ifdef SIM_PLANTED
enum planted_fault {
	PLANTED_none,
#define X(name, text) PLANTED_##name,
	PLANTED_FAULTS(X)
#undef X
};
extern enum planted_fault planted_fault;
#define PLANTED(name) (planted_fault == PLANTED_##name)
#else
#define PLANTED(name) 0
#endif

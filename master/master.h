/* master: the life of the daemon: from the command line to the last child. */
#pragma once

/* main() of sluiced: the exit status. */
int master_main(int argc, char **argv);

/* How long things may take; tests shorten them. */
struct master_times {
	unsigned receivers_ms, workers_ms, scheduler_ms,
		all_ms;        /* of a stop: until then, from its start */
	unsigned prepare_ms;   /* of a reload: then it is dropped */
	unsigned commit_ms;    /* then the answer waits no more */
	unsigned heartbeat_ms; /* a worker or receiver that is silent for longer hangs */
	unsigned check_ms;     /* between two looks at the heartbeats */
	unsigned quick_ms; /* a death within this time of being ready, or before it, is a quick one
			    */
	unsigned pause_ms; /* before the next life after two quick ones; then doubled, up to 3 s */
};
extern struct master_times master_times;

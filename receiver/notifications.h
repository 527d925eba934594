/* notifications: mail that the scheduler has to send itself comes in here and goes the way of all
 * other mail: from nobody (the null sender), into queues of CONF_VMTA_NOTIFY. What is lost here the
 * scheduler sends again; what comes twice it takes once. */
#pragma once

#include "receiver/inlet.h"
#include "receiver/terms.h"

struct notifications;

struct notifications *notifications_new(struct loop *loop, struct inlet *inlet);
void notifications_free(struct notifications **n);

/* The payload of a NOTIFY (copied). */
void notifications_take(struct notifications *n, struct slice payload);
/* The scheduler is gone: the next one has all that is not stored. */
void notifications_forget(struct notifications *n);
/* Once per turn, before inlet_turn(): hands over what there is room for. */
void notifications_turn(struct notifications *n, struct terms *terms);

/* Blocks one after another; the threads of one take turns on this processor, each with its own
 * stack, and change places where they wait for each other.
 */
#include "machine.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum State { READY, WAITS_FOR_LANES, WAITS_FOR_BLOCK, DONE };
enum { STACK = 256 << 10 };

struct Thread {
    jmp_buf place;
    enum State state;
    struct Place index;
};

static struct Thread threads[BLOCK_THREADS];
static unsigned made, current;
static jmp_buf scheduler;
static ucontext_t first;
static Launch launch;
static void **arguments;
static struct Machine *machine;

static void leave(enum State state) {
    threads[current].state = state;
    if (!_setjmp(threads[current].place)) _longjmp(scheduler, 1);
}

static void wait_for_lanes(void) { leave(WAITS_FOR_LANES); }
static void wait_for_block(void) { leave(WAITS_FOR_BLOCK); }

/* A stack serves a thread of each block in turn. */
static void live(void) {
    for (leave(DONE);; leave(DONE)) launch(arguments, machine);
}

static void make(unsigned index) {
    static ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = malloc(STACK);
    start.uc_stack.ss_size = STACK;
    if (!start.uc_stack.ss_sp) abort();
    makecontext(&start, live, 0);
    current = index;
    if (!_setjmp(scheduler)) swapcontext(&first, &start);
}

static void go_on(unsigned index) {
    current = index;
    machine->warp = index / LANES;
    machine->lane = index % LANES;
    machine->thread_index = threads[index].index;
    if (!_setjmp(scheduler)) _longjmp(threads[index].place, 1);
}

/* Until none of a warp's threads can go on without the rest of the block. */
static void run_warp(unsigned from, unsigned to) {
    for (int again = 1; again;) {
        again = 0;
        for (unsigned index = from; index < to; index++)
            if (threads[index].state == READY) go_on(index);
        for (unsigned index = from; index < to; index++)
            if (threads[index].state == WAITS_FOR_LANES) {
                threads[index].state = READY;
                again = 1;
            }
    }
}

static void run_block(unsigned count) {
    for (unsigned index = 0; index < count; index++) threads[index].state = READY;
    for (int waiting = 1; waiting;) {
        for (unsigned from = 0; from < count; from += LANES)
            run_warp(from, from + LANES < count ? from + LANES : count);
        waiting = 0;
        for (unsigned index = 0; index < count; index++)
            if (threads[index].state == WAITS_FOR_BLOCK) {
                threads[index].state = READY;
                waiting = 1;
            }
    }
}

void run_grid(Launch kernel, void **values, struct Machine *device, char *shared, unsigned bytes) {
    launch = kernel;
    arguments = values;
    machine = device;
    machine->wait_for_lanes = wait_for_lanes;
    machine->wait_for_block = wait_for_block;
    unsigned count = machine->block.x * machine->block.y * machine->block.z;
    if (count > BLOCK_THREADS) abort();
    for (; made < count; made++) make(made);
    for (unsigned index = 0; index < count; index++)
        threads[index].index = (struct Place){index % machine->block.x,
                                              index / machine->block.x % machine->block.y,
                                              index / machine->block.x / machine->block.y};
    struct Place *at = &machine->block_index;
    for (at->z = 0; at->z < machine->grid.z; at->z++)
        for (at->y = 0; at->y < machine->grid.y; at->y++)
            for (at->x = 0; at->x < machine->grid.x; at->x++) {
                /* Bytes of no number: what a kernel has not written, it shall not read. */
                if (shared) memset(shared, 0xff, bytes);
                run_block(count);
            }
}

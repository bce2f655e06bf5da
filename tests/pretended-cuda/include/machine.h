/* What a kernel and the pretended device share: where a thread stands, and how it waits for others. */
#ifndef PRETENDED_MACHINE
#define PRETENDED_MACHINE

enum { LANES = 32, BLOCK_THREADS = 1024 };

struct Place {
    unsigned x, y, z;
};

struct Machine {
    struct Place grid, block, block_index, thread_index;
    /* Of the running thread. */
    unsigned warp, lane;
    /* What lanes hand each other; and which of them have, a bit for each. */
    unsigned long long handed[BLOCK_THREADS / LANES][LANES];
    unsigned present[BLOCK_THREADS / LANES];
    /* Returns when the lanes of the warp have come here, or all threads of the block. */
    void (*wait_for_lanes)(void);
    void (*wait_for_block)(void);
};

/* A kernel behind a face that is the same for all. */
typedef void (*Launch)(void **arguments, struct Machine *machine);

/* Runs all blocks of the machine's grid; `shared` are the kernel's own bytes. */
void run_grid(Launch launch, void **arguments, struct Machine *machine, char *shared,
              unsigned shared_bytes);

#endif

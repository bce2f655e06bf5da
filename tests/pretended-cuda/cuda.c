/* A driver of CUDA whose device is this processor and its memory. Kernels that `nvrtc.c` has compiled
 * run; those of NVIDIA's compiler are taken and forgotten, so that what it says of them is heard where
 * there is no GPU. What the functions mean is said by NVIDIA's "CUDA Driver API"; those that CubeCL
 * calls are here.
 *
 * PRETENDED_SM is the device's compute capability, such as 87.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"

typedef int Status;
typedef unsigned long long Address;

enum {
    OK = 0,
    OUT_OF_MEMORY = 2,
    BAD_DEVICE = 101,
    BAD_IMAGE = 200,
    NOT_FOUND = 500,
    NOT_SUPPORTED = 801
};
#define GIBIBYTE ((size_t)1 << 30)

static int capability(void) {
    const char *number = getenv("PRETENDED_SM");
    return number ? atoi(number) : 87;
}

/* The device. */
Status cuInit(unsigned flags) { return OK; }
Status cuDriverGetVersion(int *version) { return *version = 12090, OK; }
Status cuDeviceGetCount(int *count) { return *count = 1, OK; }
Status cuDeviceGet(int *device, int index) { return *device = index, index ? BAD_DEVICE : OK; }
Status cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, (size_t)length, "pretended sm_%d", capability());
    return OK;
}
Status cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = 16 * GIBIBYTE, OK; }
Status cuDeviceGetPCIBusId(char *place, int length, int device) {
    snprintf(place, (size_t)length, "0000:01:00.0");
    return OK;
}
Status cuDeviceGetUuid_v2(void *id, int device) { return memset(id, 0, 16), OK; }
Status cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 1: /* threads of a block */
    case 2:
    case 3: return *value = 1024, OK;
    case 4: return *value = 64, OK;
    case 5: return *value = INT32_MAX, OK; /* blocks of a grid */
    case 6:
    case 7: return *value = 65535, OK;
    case 10: return *value = 32, OK; /* threads of a warp */
    case 16: return *value = 16, OK; /* multiprocessors */
    case 75: return *value = capability() / 10, OK;
    case 76: return *value = capability() % 10, OK;
    case 97: return *value = 160 << 10, OK; /* shared memory of a block */
    default: return *value = 0, OK;
    }
}

static char context;
Status cuDevicePrimaryCtxRetain(void **held, int device) { return *held = &context, OK; }
Status cuDevicePrimaryCtxRelease_v2(int device) { return OK; }
Status cuCtxSetCurrent(void *held) { return OK; }
Status cuCtxGetCurrent(void **held) { return *held = &context, OK; }
Status cuCtxSynchronize(void) { return OK; }

/* Memory. */
static Status take(void **memory, size_t bytes) {
    return posix_memalign(memory, 512, bytes ? bytes : 512) ? OUT_OF_MEMORY : OK;
}
Status cuMemAlloc_v2(Address *memory, size_t bytes) { return take((void **)memory, bytes); }
Status cuMemAllocAsync(Address *memory, size_t bytes, void *stream) {
    return take((void **)memory, bytes);
}
Status cuMemFree_v2(Address memory) { return free((void *)memory), OK; }
Status cuMemFreeAsync(Address memory, void *stream) { return free((void *)memory), OK; }
Status cuMemAllocHost_v2(void **memory, size_t bytes) { return take(memory, bytes); }
Status cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) { return take(memory, bytes); }
Status cuMemFreeHost(void *memory) { return free(memory), OK; }
Status cuMemGetInfo_v2(size_t *unused, size_t *all) { return *unused = *all = 16 * GIBIBYTE, OK; }
Status cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) {
    return memcpy((void *)to, from, bytes), OK;
}
Status cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) {
    return memcpy(to, (void *)from, bytes), OK;
}
Status cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *stream) {
    return memmove((void *)to, (void *)from, bytes), OK;
}
struct Side {
    size_t x_bytes, y;
    int kind; /* 1 for the host's memory, 2 for the device's */
    char *host, *device;
    void *array;
    size_t pitch;
};
struct Copy2D {
    struct Side from, to;
    size_t width_bytes, height;
};
static char *row(const struct Side *side, size_t index) {
    char *base = side->kind == 1 ? side->host : side->device;
    return base + (side->y + index) * side->pitch + side->x_bytes;
}
Status cuMemcpy2DAsync_v2(const struct Copy2D *copy, void *stream) {
    for (size_t at = 0; at < copy->height; at++)
        memcpy(row(&copy->to, at), row(&copy->from, at), copy->width_bytes);
    return OK;
}
Status cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void *stream) {
    return memset((void *)to, value, bytes), OK;
}

/* Streams and events. */
static char token;
Status cuStreamCreate(void **stream, unsigned flags) { return *stream = &token, OK; }
Status cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    return *stream = &token, OK;
}
Status cuStreamDestroy_v2(void *stream) { return OK; }
Status cuStreamSynchronize(void *stream) { return OK; }
Status cuStreamQuery(void *stream) { return OK; }
Status cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return OK; }
Status cuStreamIsCapturing(void *stream, int *is) { return *is = 0, OK; }
Status cuStreamBeginCapture_v2(void *stream, int mode) { return NOT_SUPPORTED; }
Status cuEventCreate(void **event, unsigned flags) { return *event = &token, OK; }
Status cuEventDestroy_v2(void *event) { return OK; }
Status cuEventRecord(void *event, void *stream) { return OK; }
Status cuEventSynchronize(void *event) { return OK; }
Status cuEventQuery(void *event) { return OK; }

/* Kernels. */
struct Kernel {
    Launch launch;
    char *(*shared)(void);
};

static const char LIBRARY[] = "pretended:";
Status cuModuleLoadData(void **module, const void *image) {
    *module = &token;
    if (strncmp(image, LIBRARY, strlen(LIBRARY)) != 0) return OK;
    *module = dlopen((const char *)image + strlen(LIBRARY), RTLD_NOW | RTLD_LOCAL);
    return *module ? OK : (fprintf(stderr, "%s\n", dlerror()), BAD_IMAGE);
}
Status cuModuleUnload(void *module) { return OK; }
Status cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = &token;
    if (module == &token) return OK;
    char symbol[300];
    struct Kernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel) return OUT_OF_MEMORY;
    snprintf(symbol, sizeof symbol, "%s_launch", name);
    kernel->launch = (Launch)dlsym(module, symbol);
    snprintf(symbol, sizeof symbol, "%s_shared", name);
    kernel->shared = (char *(*)(void))dlsym(module, symbol);
    return *function = kernel, kernel->launch ? OK : NOT_FOUND;
}
Status cuFuncSetAttribute(void *function, int attribute, int value) { return OK; }
Status cuFuncGetAttribute(int *value, int attribute, void *function) { return *value = 1024, OK; }
Status cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned dx, unsigned dy,
                      unsigned dz, unsigned shared, void *stream, void **arguments, void **extra) {
    static pthread_mutex_t device = PTHREAD_MUTEX_INITIALIZER;
    static struct Machine machine;
    if (function == &token) return OK;
    struct Kernel *kernel = function;
    pthread_mutex_lock(&device);
    machine.grid = (struct Place){x, y, z};
    machine.block = (struct Place){dx, dy, dz};
    run_grid(kernel->launch, arguments, &machine, kernel->shared ? kernel->shared() : NULL, shared);
    pthread_mutex_unlock(&device);
    return OK;
}
Status cuLaunchKernelEx(const void *config, void *function, void **arguments, void **extra) {
    return function == &token ? OK : NOT_SUPPORTED;
}
Status cuGetErrorName(int error, const char **name) { return *name = "an error", OK; }
Status cuGetErrorString(int error, const char **words) { return *words = "an error", OK; }

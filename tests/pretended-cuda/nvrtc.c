/* A compiler of CUDA C++ that makes kernels for this processor: the system's C++ compiler behind
 * NVRTC's face. What it gives for PTX is the name of a shared library.
 *
 * PRETENDED_KERNELS is the folder that keeps the libraries, by their sources; one that is used again
 * gets the date of it. Sources that speak of PRETENDED_WITHOUT, such as a header, are refused.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utime.h>

/* Libraries are kept, and may be run on another machine. */
#ifdef __x86_64__
#define PROCESSOR "-march=x86-64-v3"
#else
#define PROCESSOR ""
#endif

enum { OK = 0, OUT_OF_MEMORY = 1, BAD_SOURCE = 6 };

struct Program {
    char *source;
    char library[512];
    char log[4096];
};

/* Copies a name from `from` on, as long as it is one. */
static int name_at(const char *from, char *name, size_t room) {
    size_t length = strspn(from, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");
    if (!length || length >= room) return 0;
    memcpy(name, from, length);
    name[length] = 0;
    return 1;
}

/* The kernel's name stands before the first parenthesis behind its launch bounds. */
static int kernel_name(const char *source, char *name, size_t room) {
    const char *at = strstr(source, "__launch_bounds__(");
    at = at ? strchr(at, ')') : NULL;
    return at && name_at(at + 1 + strspn(at + 1, " "), name, room);
}

/* The name of the bytes that a block shares. */
static int shared_name(const char *source, char *name, size_t room) {
    const char *at = strstr(source, "extern __shared__ ");
    at = at ? strstr(at, " char ") : NULL;
    return at && name_at(at + 6, name, room);
}

/* FNV-1a, from an earlier sum on. */
static unsigned long long hash(unsigned long long sum, const char *text) {
    for (; *text; text++) sum = (sum ^ (unsigned char)*text) * 0x100000001b3u;
    return sum;
}

/* Of the source and of what it includes here. */
static unsigned long long hash_all(const char *source, const char *include) {
    static const char *const HEADERS[] = {"kernel.h", "machine.h"};
    unsigned long long sum = hash(0xcbf29ce484222325u, source);
    char line[512];
    for (int at = 0; at < 2; at++) {
        snprintf(line, sizeof line, "%s/%s", include, HEADERS[at]);
        FILE *file = fopen(line, "r");
        while (file && fgets(line, sizeof line, file)) sum = hash(sum, line);
        if (file) fclose(file);
    }
    return sum;
}

/* The one instruction that kernels write as one. */
static void write_body(FILE *file, const char *source) {
    static const char ADD[] = "asm volatile(\"atom.relaxed.add.u32 %0, [%1], %2;\"";
    char result[64], place[64], value[64];
    for (const char *at; (at = strstr(source, ADD)); source = at) {
        fwrite(source, 1, (size_t)(at - source), file);
        int length = 0;
        at += strlen(ADD);
        sscanf(at, " : \"=r\"(%63[a-z0-9_]) : \"l\"(%63[a-z0-9_]), \"r\"(%63[a-z0-9_]) );%n", result, place,
               value, &length);
        if (!length) break;
        fprintf(file, "%s = atomicAdd(%s, %s);", result, place, value);
        at += length;
    }
    fputs(source, file);
}

static int write_source(const char *path, const char *source) {
    char kernel[256], shared[256];
    if (!kernel_name(source, kernel, sizeof kernel)) return 0;
    FILE *file = fopen(path, "w");
    if (!file) return 0;
    fputs("#include \"kernel.h\"\n", file);
    write_body(file, source);
    fprintf(file, "\nextern \"C\" void %s_launch(void **arguments, Machine *machine) {\n", kernel);
    fprintf(file, "    call(&%s, arguments, machine);\n}\n", kernel);
    if (shared_name(source, shared, sizeof shared)) {
        fprintf(file, "__attribute__((aligned(128))) char %s[256 << 10];\n", shared);
        fprintf(file, "extern \"C\" char *%s_shared() { return %s; }\n", kernel, shared);
    }
    return fclose(file) == 0;
}

int nvrtcVersion(int *major, int *minor) { return *major = 12, *minor = 9, OK; }
int nvrtcCreateProgram(struct Program **program, const char *source, const char *name, int headers,
                       const char *const *texts, const char *const *names) {
    *program = calloc(1, sizeof **program);
    if (!*program || !((*program)->source = strdup(source))) return OUT_OF_MEMORY;
    return OK;
}
int nvrtcDestroyProgram(struct Program **program) {
    free((*program)->source);
    free(*program);
    return *program = NULL, OK;
}

static int report(struct Program *program, const char *reason) {
    return snprintf(program->log, sizeof program->log, "%s", reason), BAD_SOURCE;
}

int nvrtcCompileProgram(struct Program *program, int count, const char *const *options) {
    static const char INCLUDE[] = "--include-path=";
    const char *kernels = getenv("PRETENDED_KERNELS"), *include = NULL;
    char source[600], command[3000], path[520];
    for (int at = 0; at < count && !include; at++)
        if (strncmp(options[at], INCLUDE, strlen(INCLUDE)) == 0) include = options[at] + strlen(INCLUDE);
    if (!kernels || !include) return report(program, "PRETENDED_KERNELS and an include path are wanted");
    const char *without = getenv("PRETENDED_WITHOUT");
    if (without && strstr(program->source, without)) return report(program, "this is not installed");
    snprintf(program->library, sizeof program->library, "%s/%016llx.so", kernels,
             hash_all(program->source, include));
    if (utime(program->library, NULL) == 0) return OK;
    snprintf(path, sizeof path, "%s.%d", program->library, (int)getpid());
    snprintf(source, sizeof source, "%s.cc", path);
    if (!write_source(source, program->source)) {
        return report(program, "there is no kernel in the source, or no place for it");
    }
    snprintf(command, sizeof command,
             "c++ -std=c++17 -O1 " PROCESSOR " -w -fno-stack-protector -ffp-contract=off -shared -fPIC"
             " -I '%s' -o '%s' '%s' 2>&1", include, path, source);
    FILE *compiler = popen(command, "r");
    if (!compiler) return BAD_SOURCE;
    program->log[fread(program->log, 1, sizeof program->log - 1, compiler)] = 0;
    if (pclose(compiler) != 0) return BAD_SOURCE;
    unlink(source);
    return rename(path, program->library) ? BAD_SOURCE : OK;
}

int nvrtcGetPTXSize(struct Program *program, size_t *bytes) {
    return *bytes = sizeof "pretended:" + strlen(program->library), OK;
}
int nvrtcGetPTX(struct Program *program, char *text) {
    return sprintf(text, "pretended:%s", program->library), OK;
}
int nvrtcGetProgramLogSize(struct Program *program, size_t *bytes) {
    return *bytes = strlen(program->log) + 1, OK;
}
int nvrtcGetProgramLog(struct Program *program, char *text) { return strcpy(text, program->log), OK; }

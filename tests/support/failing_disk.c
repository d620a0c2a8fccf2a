/* Library for LD_PRELOAD: file operations that fail or wait, and a wall clock that jumps, while a switch file exists.
   See failing_disk.py.

   CHAOS_SWITCH  file; the faults happen while it exists
   CHAOS_FAULT   eio, edquot, erofs, slow (50 ms for each operation) or clock (content of the switch file: seconds to add)
   CHAOS_PATH    prefix of the files that are affected
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int on(const char *fault) {
    const char *file = getenv("CHAOS_SWITCH"), *wanted = getenv("CHAOS_FAULT");
    return file && wanted && !strcmp(wanted, fault) && access(file, F_OK) == 0;
}

/* The error of an operation on a file, 0 for none. */
static int fault(int file, int writes) {
    char link[64], path[4096];
    const char *prefix = getenv("CHAOS_PATH");
    int eio = on("eio"), quota = on("edquot"), read_only = on("erofs"), slow = on("slow"), saved = errno;
    if (!prefix || !(eio || quota || read_only || slow)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (length < 0) return 0;
    path[length] = 0;
    if (strncmp(path, prefix, strlen(prefix))) return 0;
    if (slow) usleep(50000);
    return eio ? EIO : quota && writes ? EDQUOT : read_only && writes ? EROFS : 0;
}

#define WRAP(kind, name, parameters, values, writes)                                   \
    kind name parameters {                                                             \
        static kind(*original) parameters;                                             \
        if (!original) original = (kind(*) parameters)dlsym(RTLD_NEXT, #name);         \
        int error = fault(file, writes);                                               \
        if (error) { errno = error; return -1; }                                       \
        return original values;                                                        \
    }

WRAP(ssize_t, read, (int file, void *data, size_t size), (file, data, size), 0)
WRAP(ssize_t, pread, (int file, void *data, size_t size, off_t at), (file, data, size, at), 0)
WRAP(ssize_t, pread64, (int file, void *data, size_t size, off64_t at), (file, data, size, at), 0)
WRAP(ssize_t, write, (int file, const void *data, size_t size), (file, data, size), 1)
WRAP(ssize_t, pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at), 1)
WRAP(ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at), 1)
WRAP(ssize_t, writev, (int file, const struct iovec *data, int count), (file, data, count), 1)
WRAP(int, fsync, (int file), (file), 1)
WRAP(int, fdatasync, (int file), (file), 1)
WRAP(int, ftruncate, (int file, off_t size), (file, size), 1)
WRAP(int, ftruncate64, (int file, off64_t size), (file, size), 1)

static long jump(void) {
    long seconds = 0;
    if (on("clock")) {
        FILE *stream = fopen(getenv("CHAOS_SWITCH"), "r");
        if (stream) {
            if (fscanf(stream, "%ld", &seconds) != 1) seconds = 0;
            fclose(stream);
        }
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*original)(clockid_t, struct timespec *);
    if (!original) original = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = original(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) now->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    static int (*original)(struct timeval *, void *);
    if (!original) original = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    int result = original(now, zone);
    if (result == 0) now->tv_sec += jump();
    return result;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

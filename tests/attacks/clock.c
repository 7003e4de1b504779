/* A clock that a host controls, for one process: LD_PRELOAD in front of the C library.
 *
 * The file that TESTED_CLOCK names is shared with the test (see clocks.py): how fast time passes, and by how much the
 * wall clock and the clocks of elapsed time are off. A change counts from the moment at which the process sees it, so
 * that only a step makes time jump. Processor time is left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct shared {
    volatile uint64_t version; /* grows with each change */
    volatile int64_t permille; /* 1000: as fast as true time */
    volatile int64_t wall_ns;
    volatile int64_t elapsed_ns;
};

struct one {
    uint64_t version;
    int64_t permille, true_ns, told_ns; /* told_ns, without steps, was told at true_ns */
};

static struct shared *shared;
static struct one clocks[16];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int (*true_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    true_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("TESTED_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *found = mmap(NULL, sizeof *shared, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED) shared = found;
}

static int is_changed(clockid_t id) {
    return id == CLOCK_REALTIME || id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_RAW || id == CLOCK_REALTIME_COARSE ||
           id == CLOCK_MONOTONIC_COARSE || id == CLOCK_BOOTTIME;
}

int clock_gettime(clockid_t id, struct timespec *out) {
    if (true_clock == NULL) begin();
    int result = true_clock(id, out);
    if (result != 0 || shared == NULL || !is_changed(id)) return result;
    int64_t now = (int64_t)out->tv_sec * 1000000000 + out->tv_nsec;
    pthread_mutex_lock(&lock);
    struct one *clock = &clocks[id];
    if (clock->true_ns == 0) *clock = (struct one){shared->version, shared->permille, now, now};
    int64_t told = clock->told_ns + (now - clock->true_ns) * clock->permille / 1000;
    if (clock->version != shared->version) *clock = (struct one){shared->version, shared->permille, now, told};
    int is_wall = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE;
    told += is_wall ? shared->wall_ns : shared->elapsed_ns;
    pthread_mutex_unlock(&lock);
    out->tv_sec = told / 1000000000;
    out->tv_nsec = told % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL) *out = now.tv_sec;
    return now.tv_sec;
}

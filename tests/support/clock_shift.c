/* Preloaded into a process, it shifts CLOCK_REALTIME by the seconds that a file holds (8 bytes), at once when that file
 * is changed. Only what asks for the time of day sees it: monotonic clocks, and so sleeps and time-outs, are as they
 * were. Without headers and start files, so that the compiler alone is needed. */

struct timespec { long tv_sec, tv_nsec; };
struct timeval { long tv_sec, tv_usec; };

extern long syscall(long number, ...);
extern char *getenv(const char *name);
extern int open(const char *path, int flags, ...);
extern int close(int descriptor);
extern void *mmap(void *address, unsigned long length, int protection, int flags, int descriptor, long offset);

#if defined(__x86_64__)
#define SYS_CLOCK_GETTIME 228
#elif defined(__aarch64__)
#define SYS_CLOCK_GETTIME 113
#endif
#define REALTIME 0
#define REALTIME_COARSE 5

static volatile const long *shift;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_SHIFT_FILE");
    int descriptor = path ? open(path, 0) : -1;
    if (descriptor >= 0) {
        void *mapped = mmap(0, sizeof(long), 1, 1, descriptor, 0);
        shift = mapped == (void *)-1 ? 0 : mapped;
        close(descriptor);
    }
}

int clock_gettime(int clock, struct timespec *now) {
    int failed = (int)syscall(SYS_CLOCK_GETTIME, clock, now);
    if (!failed && shift && (clock == REALTIME || clock == REALTIME_COARSE)) now->tv_sec += *shift;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

long time(long *now) {
    struct timespec exact;
    clock_gettime(REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}

/* Preloaded into the operator: its wall clock is off by SKEW_SECONDS. What measures durations is left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    const char *skew = getenv("SKEW_SECONDS");
    if (result == 0 && id == CLOCK_REALTIME && skew)
        now->tv_sec += atol(skew);
    return result;
}

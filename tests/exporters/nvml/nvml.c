/* A stand-in for NVIDIA's libnvidia-ml.so.1: what it answers stands in a text file.
 *
 * JOBMETER_NVML_SCRIPT names the file. It is looked at on every call, so replacing it (by rename)
 * changes the answers. One "KEY VALUE" per line, the last line of a key holds:
 *
 *     count 4                      of the node
 *     2.power 170582               of GPU 2, in NVML's unit
 *     *.power 170582               of every GPU that has no line of its own
 *     2.field.83 error 3           the NVML return code instead of a value
 *     2.all error 15               of every call for this GPU
 *     0/1.memory_used 1048576      of the second MIG device of GPU 0
 *
 *     2.temperature hang           the call comes back when the line says something else
 *
 * What has no line is NOT_SUPPORTED. JOBMETER_NVML_CALLS names a file that gets a line per question.
 * With OLD_DRIVER the symbols that came later are missing, and an unknown field spoils its batch.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define TIMEOUT 10
#define NO_DATA 21

#define MOST_GPUS 8
#define MOST_INSTANCES 8
#define MOST_METRICS 128
#define LONGEST 256

typedef int ret;
typedef unsigned int u32;
typedef unsigned long long u64;

typedef struct {
    int gpu, mig; /* mig -1: the whole GPU */
} device;

static device gpus[MOST_GPUS], migs[MOST_GPUS][MOST_INSTANCES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- the script ---- */

static char *text;
static struct stat seen;

static void reread(void) {
    const char *path = getenv("JOBMETER_NVML_SCRIPT");
    struct stat now;
    if (!path || stat(path, &now)) return;
    if (text && now.st_ino == seen.st_ino && now.st_size == seen.st_size &&
        !memcmp(&now.st_mtim, &seen.st_mtim, sizeof now.st_mtim))
        return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    free(text);
    text = calloc(1, now.st_size + 2);
    text[0] = '\n';
    if (fread(text + 1, 1, now.st_size, file) == 0) text[1] = 0;
    fclose(file);
    seen = now;
}

static void note(const char *key) {
    const char *path = getenv("JOBMETER_NVML_CALLS");
    if (!path) return;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    char line[LONGEST];
    int length = snprintf(line, sizeof line, "%s\n", key);
    if (fd >= 0 && write(fd, line, length) < 0) perror(path);
    if (fd >= 0) close(fd);
}

/* Copy the value of one exact key; 0 where it has no line. */
static int find(const char *key, char *value, size_t size) {
    char line[LONGEST];
    int length = snprintf(line, sizeof line, "\n%s ", key);
    const char *at = text, *last = NULL;
    while (at && (at = strstr(at, line))) {
        last = at + length;
        at += length - 1;
    }
    if (!last) return 0;
    size_t end = strcspn(last, "\n");
    snprintf(value, size, "%.*s", (int)end, last);
    return 1;
}

static ret error_of(const char *value) {
    return strncmp(value, "error ", 6) ? SUCCESS : atoi(value + 6);
}

static ret node(const char *key, char *value, size_t size) {
    pthread_mutex_lock(&lock);
    reread();
    note(key);
    int found = find(key, value, size);
    pthread_mutex_unlock(&lock);
    return found ? error_of(value) : NOT_SUPPORTED;
}

static ret look(const device *one, const char *key, char *value, size_t size) {
    char own[LONGEST], all[LONGEST], any[LONGEST], code[LONGEST];
    snprintf(all, sizeof all, "%d.all", one->gpu);
    if (one->mig < 0) {
        snprintf(own, sizeof own, "%d.%s", one->gpu, key);
        snprintf(any, sizeof any, "*.%s", key);
    } else {
        snprintf(own, sizeof own, "%d/%d.%s", one->gpu, one->mig, key);
        snprintf(any, sizeof any, "*/*.%s", key);
    }
    pthread_mutex_lock(&lock);
    reread();
    note(own);
    int lost = find(all, code, sizeof code);
    int found = find(own, value, size) || find(any, value, size);
    pthread_mutex_unlock(&lock);
    if (lost) return error_of(code);
    return found ? error_of(value) : NOT_SUPPORTED;
}

static ret number(const device *one, const char *key, u64 *out) {
    char value[LONGEST];
    ret code;
    while (!(code = look(one, key, value, sizeof value)) && !strcmp(value, "hang")) usleep(1000);
    if (code == SUCCESS) *out = strtoull(value, NULL, 0);
    return code;
}

static ret number32(const device *one, const char *key, u32 *out) {
    u64 wide;
    ret code = number(one, key, &wide);
    if (code == SUCCESS) *out = (u32)wide;
    return code;
}

/* ---- the node ---- */

ret nvmlInitWithFlags(u32 flags) {
    (void)flags;
    char value[LONGEST];
    for (int gpu = 0; gpu < MOST_GPUS; gpu++) {
        gpus[gpu] = (device){gpu, -1};
        for (int mig = 0; mig < MOST_INSTANCES; mig++) migs[gpu][mig] = (device){gpu, mig};
    }
    ret code = node("init", value, sizeof value);
    return code == NOT_SUPPORTED ? SUCCESS : code;
}

ret nvmlShutdown(void) {
    note("shutdown");
    return SUCCESS;
}

const char *nvmlErrorString(ret code) {
    static char words[32];
    snprintf(words, sizeof words, "Error %d", code);
    return words;
}

ret nvmlSystemGetDriverVersion(char *out, u32 size) { return node("driver", out, size); }

ret nvmlDeviceGetCount_v2(u32 *out) {
    char value[LONGEST];
    ret code = node("count", value, sizeof value);
    if (code == SUCCESS) *out = (u32)atoi(value);
    return code;
}

ret nvmlDeviceGetHandleByIndex_v2(u32 index, device **out) {
    char value[LONGEST];
    if (index >= MOST_GPUS) return INVALID_ARGUMENT;
    *out = &gpus[index];
    ret code = look(*out, "handle", value, sizeof value);
    return code == NOT_SUPPORTED ? SUCCESS : code;
}

/* ---- what a GPU is ---- */

ret nvmlDeviceGetUUID(device *one, char *out, u32 size) { return look(one, "uuid", out, size); }
ret nvmlDeviceGetName(device *one, char *out, u32 size) { return look(one, "name", out, size); }
ret nvmlDeviceGetMinorNumber(device *one, u32 *out) { return number32(one, "minor", out); }

typedef struct {
    char legacy[16];
    u32 domain, bus, device, id, subsystem;
    char bus_id[32];
} pci;

ret nvmlDeviceGetPciInfo_v3(device *one, pci *out) {
    memset(out, 0, sizeof *out);
    return look(one, "bus_id", out->bus_id, sizeof out->bus_id);
}

ret nvmlDeviceGetMigMode(device *one, u32 *current, u32 *pending) {
    ret code = number32(one, "mig_mode", current);
    *pending = *current;
    return code;
}

ret nvmlDeviceGetMaxMigDeviceCount(device *one, u32 *out) {
    return number32(one, "mig_count", out);
}

ret nvmlDeviceGetMigDeviceHandleByIndex(device *one, u32 index, device **out) {
    u32 instance;
    if (index >= MOST_INSTANCES) return INVALID_ARGUMENT;
    *out = &migs[one->gpu][index];
    ret code = number32(*out, "gi", &instance);
    return code == NOT_SUPPORTED ? NOT_FOUND : code;
}

ret nvmlDeviceGetGpuInstanceId(device *one, u32 *out) { return number32(one, "gi", out); }

/* ---- values ---- */

ret nvmlDeviceGetPowerUsage(device *one, u32 *out) { return number32(one, "power", out); }
ret nvmlDeviceGetEnforcedPowerLimit(device *one, u32 *out) { return number32(one, "limit", out); }

ret nvmlDeviceGetTemperature(device *one, u32 sensor, u32 *out) {
    return sensor ? INVALID_ARGUMENT : number32(one, "temperature", out);
}

ret nvmlDeviceGetClockInfo(device *one, u32 clock, u32 *out) {
    return number32(one, clock == 1 ? "sm_clock" : clock == 2 ? "memory_clock" : "clock", out);
}

typedef struct {
    u32 gpu, memory;
} utilization;

ret nvmlDeviceGetUtilizationRates(device *one, utilization *out) {
    ret code = number32(one, "utilization", &out->gpu);
    return code ? code : number32(one, "memory_utilization", &out->memory);
}

ret nvmlDeviceGetEncoderUtilization(device *one, u32 *out, u32 *period_us) {
    *period_us = 167000;
    return number32(one, "encoder", out);
}

ret nvmlDeviceGetDecoderUtilization(device *one, u32 *out, u32 *period_us) {
    *period_us = 167000;
    return number32(one, "decoder", out);
}

ret nvmlDeviceGetCurrentClocksThrottleReasons(device *one, u64 *out) {
    return number(one, "clock_reasons", out);
}

typedef struct {
    u64 total, free, used;
} memory_v1;

ret nvmlDeviceGetMemoryInfo(device *one, memory_v1 *out) {
    u64 reserved = 0;
    ret code = number(one, "memory_total", &out->total);
    if (!code) code = number(one, "memory_used", &out->used);
    if (!code) code = number(one, "memory_reserved", &reserved);
    out->used += reserved;
    out->free = out->total - out->used;
    return code;
}

typedef struct {
    u32 field, scope;
    long long timestamp, latency_us;
    u32 type;
    ret code;
    union {
        double d;
        u32 u;
        u64 ull;
    } value;
} field_value;

ret nvmlDeviceGetFieldValues(device *one, int count, field_value *values) {
    char key[LONGEST];
    snprintf(key, sizeof key, "fields %d", count);
    char unused[LONGEST];
    ret lost = look(one, key, unused, sizeof unused);
    if (lost != NOT_SUPPORTED && lost != SUCCESS) return lost;
#ifdef OLD_DRIVER
    for (int at = 0; at < count; at++)
        if (values[at].field > 160) return INVALID_ARGUMENT;
#endif
    for (int at = 0; at < count; at++) {
        field_value *each = &values[at];
        snprintf(key, sizeof key, each->scope ? "field.%u.%u" : "field.%u", each->field,
                 each->scope);
        each->type = 3; /* unsigned long long */
        each->value.ull = 0;
        each->code = number(one, key, &each->value.ull);
        if (each->field == 82 || each->field == 94) { /* these are unsigned int */
            u32 narrow = (u32)each->value.ull;
            each->value.ull = 0xdeadbeef00000000ull;
            each->value.u = narrow;
            each->type = 1;
        }
    }
    return SUCCESS;
}

/* "1:2:3,4:5:6" into rows of `width`; returns how many rows have a first number above `after`. */
static int rows(const char *value, int width, u64 after, u64 (*out)[4]) {
    int count = 0;
    while (*value) {
        u64 row[4] = {0};
        for (int at = 0; at < width; at++) {
            char *end;
            row[at] = strtoull(value, &end, 0);
            value = end + (*end == ':' || *end == ',');
        }
        if (row[0] > after) memcpy(out[count++], row, sizeof row);
    }
    return count;
}

typedef struct {
    u64 timestamp;
    u64 value; /* the union: unsigned int in its first half */
} sample;

ret nvmlDeviceGetSamples(device *one, u32 kind, u64 after, u32 *type, u32 *count, sample *out) {
    char key[LONGEST], value[4096];
    u64 found[64][4];
    snprintf(key, sizeof key, "samples.%u", kind);
    ret code = look(one, key, value, sizeof value);
    if (code) return code;
    int number_of = rows(value, 2, after, found);
    *type = 1;
    if (!number_of) return NOT_FOUND;
    if (!out) {
        *count = 64; /* as the driver does: the size of its buffer */
        snprintf(key, sizeof key, "samples.%u.buffer", kind);
        if (!look(one, key, value, sizeof value)) *count = strtoul(value, 0, 10);
        return SUCCESS;
    }
    for (int at = 0; at < number_of; at++) out[at] = (sample){found[at][0], found[at][1]};
    *count = number_of;
    return SUCCESS;
}

typedef struct {
    u32 pid;
    u64 timestamp;
    u32 sm, memory, encoder, decoder;
} process_use;

ret nvmlDeviceGetProcessUtilization(device *one, process_use *out, u32 *count, u64 after) {
    char value[4096];
    u64 found[64][4];
    ret code = look(one, "process_use", value, sizeof value);
    if (code) return code;
    int number_of = rows(value, 3, after, found);
    if (!number_of) return NOT_FOUND;
    if (!out) {
        *count = number_of;
        return INSUFFICIENT_SIZE;
    }
    for (int at = 0; at < number_of; at++)
        out[at] = (process_use){(u32)found[at][1], found[at][0], (u32)found[at][2], 0, 0, 0};
    *count = number_of;
    return SUCCESS;
}

/* ---- events ---- */

typedef struct {
    u64 last[MOST_GPUS];
    int registered[MOST_GPUS];
} event_set;

typedef struct {
    device *gpu;
    u64 type, data;
    u32 gpu_instance, compute_instance;
} event;

static int xids(device *one, u64 after, u64 (*found)[4]) {
    char value[4096];
    return look(one, "xid", value, sizeof value) ? 0 : rows(value, 2, after, found);
}

ret nvmlEventSetCreate(event_set **out) {
    *out = calloc(1, sizeof **out);
    return SUCCESS;
}

ret nvmlEventSetFree(event_set *set) {
    free(set);
    return SUCCESS;
}

ret nvmlDeviceRegisterEvents(device *one, u64 types, event_set *set) {
    u64 found[64][4];
    char value[LONGEST];
    ret code = look(one, "events", value, sizeof value);
    if (code && code != NOT_SUPPORTED) return code;
    if (types != 8) return INVALID_ARGUMENT;
    int count = xids(one, 0, found);
    set->registered[one->gpu] = 1;
    set->last[one->gpu] = count ? found[count - 1][0] : 0;
    return SUCCESS;
}

ret nvmlEventSetWait_v2(event_set *set, event *out, u32 timeout_ms) {
    u64 found[64][4];
    (void)timeout_ms;
    for (int gpu = 0; gpu < MOST_GPUS; gpu++) {
        if (!set->registered[gpu] || !xids(&gpus[gpu], set->last[gpu], found)) continue;
        set->last[gpu] = found[0][0];
        *out = (event){&gpus[gpu], 8, found[0][1], 0xffffffff, 0xffffffff};
        return SUCCESS;
    }
    return TIMEOUT;
}

#ifndef OLD_DRIVER /* ---- what came later ---- */

ret nvmlDeviceGetCurrentClocksEventReasons(device *one, u64 *out) {
    return number(one, "clock_reasons", out);
}

typedef struct {
    u32 version;
    u64 total, reserved, free, used;
} memory_v2;

ret nvmlDeviceGetMemoryInfo_v2(device *one, memory_v2 *out) {
    if (out->version != 0x02000028) return 25;
    ret code = number(one, "memory_total", &out->total);
    if (!code) code = number(one, "memory_used", &out->used);
    if (!code) code = number(one, "memory_reserved", &out->reserved);
    out->free = out->total - out->used - out->reserved;
    return code;
}

typedef struct {
    u32 pid;
    u64 used;
    u32 gpu_instance, compute_instance;
} process;

ret nvmlDeviceGetComputeRunningProcesses_v3(device *one, u32 *count, process *out) {
    char value[4096];
    u64 found[64][4];
    ret code = look(one, "processes", value, sizeof value);
    if (code) return code;
    u32 number_of = rows(value, 2, 0, found), room = *count;
    *count = number_of;
    if (number_of > room) return INSUFFICIENT_SIZE;
    for (u32 at = 0; at < number_of; at++)
        out[at] = (process){(u32)found[at][0], found[at][1], 0xffffffff, 0xffffffff};
    return SUCCESS;
}

/* GPM. A sample keeps what the script says then: gpm.clock in seconds, and gpm.ID, the integral of
 * metric ID. A metric is the difference of two integrals by that of their clocks: the mean. */
typedef struct {
    double clock, integral[MOST_METRICS];
    ret code[MOST_METRICS];
} gpm_sample;

typedef struct {
    u32 id;
    ret code;
    double value;
    const char *words[3];
} gpm_metric;

typedef struct {
    u32 version, count;
    gpm_sample *from, *to;
    gpm_metric metrics[];
} gpm_metrics;

typedef struct {
    u32 version, supported;
} gpm_support;

ret nvmlGpmQueryDeviceSupport(device *one, gpm_support *out) {
    return number32(one, "gpm", &out->supported);
}

ret nvmlGpmSampleAlloc(gpm_sample **out) {
    *out = calloc(1, sizeof **out);
    note("gpm alloc");
    return SUCCESS;
}

ret nvmlGpmSampleFree(gpm_sample *one) {
    free(one);
    note("gpm free");
    return SUCCESS;
}

static ret gpm_take(device *one, const char *prefix, gpm_sample *out) {
    char key[64], value[LONGEST];
    snprintf(key, sizeof key, "%sgpm.clock", prefix);
    ret code = look(one, key, value, sizeof value);
    if (code) return code;
    out->clock = strtod(value, NULL);
    for (int id = 0; id < MOST_METRICS; id++) {
        snprintf(key, sizeof key, "%sgpm.%d", prefix, id);
        pthread_mutex_lock(&lock);
        char own[LONGEST], any[LONGEST];
        snprintf(own, sizeof own, "%d.%s", one->gpu, key);
        snprintf(any, sizeof any, "*.%s", key);
        int found = find(own, value, sizeof value) || find(any, value, sizeof value);
        pthread_mutex_unlock(&lock);
        out->code[id] = found ? error_of(value) : NOT_SUPPORTED;
        out->integral[id] = strtod(value, NULL);
    }
    return SUCCESS;
}

ret nvmlGpmSampleGet(device *one, gpm_sample *out) { return gpm_take(one, "", out); }

ret nvmlGpmMigSampleGet(device *one, u32 instance, gpm_sample *out) {
    char prefix[32];
    snprintf(prefix, sizeof prefix, "gi%u.", instance);
    return gpm_take(one, prefix, out);
}

ret nvmlGpmMetricsGet(gpm_metrics *asked) {
    if (asked->version != 1 || !asked->from || !asked->to) return INVALID_ARGUMENT;
    double seconds = asked->to->clock - asked->from->clock;
    note("gpm metrics");
    for (u32 at = 0; at < asked->count; at++) {
        gpm_metric *each = &asked->metrics[at];
        each->code = each->id < MOST_METRICS ? asked->to->code[each->id] : NOT_SUPPORTED;
        if (seconds <= 0) each->code = NO_DATA;
        each->value = 0.0 / 0.0;
        if (!each->code)
            each->value =
                (asked->to->integral[each->id] - asked->from->integral[each->id]) / seconds;
    }
    return SUCCESS;
}

#endif

/* A stand-in for Intel's libhlml.so, with the signatures that pyhlml calls: three devices.
 *
 * Device 1 does not support clocks and its second temperature; any device is lost while its bit in
 * `lost` is set; nothing can be opened while `unloaded` is set. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, NOT_LOADED = 9, IS_LOST = 15 };
enum { DEVICES = 3 };

unsigned lost, unloaded, opened;

typedef struct {
    unsigned bus;
    char bus_id[19];
    unsigned device, domain, pci_device_id;
} pci_info; /* begins like the library's */
typedef struct {
    unsigned aip, memory;
} utilization;
typedef struct {
    unsigned long long free, total, used;
} memory;

static char handles[DEVICES];

static unsigned number(void *handle) { return (unsigned)((char *)handle - handles); }

#define DEVICE(n)                                                                                  \
    unsigned n = number(handle);                                                                   \
    if (!opened) return UNINITIALIZED;                                                             \
    if (lost >> n & 1) return IS_LOST

int hlml_init(void) {
    if (unloaded) return NOT_LOADED;
    opened++;
    return OK;
}

int hlml_shutdown(void) {
    opened = 0;
    return OK;
}

int hlml_device_get_count(unsigned *count) {
    if (!opened || unloaded) return NOT_LOADED;
    *count = DEVICES;
    return OK;
}

int hlml_device_get_handle_by_index(unsigned index, void **handle) {
    *handle = &handles[index];
    return OK;
}

int hlml_device_get_uuid(void *handle, char *text, unsigned size) {
    DEVICE(n);
    snprintf(text, size, "01P0-HL3090A0-%u", n);
    return OK;
}

int hlml_device_get_name(void *handle, char *text, unsigned size) {
    DEVICE(n);
    snprintf(text, size, "HL-325L");
    return OK;
}

int hlml_device_get_pci_info(void *handle, pci_info *info) {
    DEVICE(n);
    snprintf(info->bus_id, sizeof info->bus_id, "0000:3%u:00.0", n + 3);
    return OK;
}

int hlml_device_get_module_id(void *handle, unsigned *id) {
    DEVICE(n);
    *id = DEVICES - n;
    return OK;
}

int hlml_device_get_utilization_rates(void *handle, utilization *rates) {
    DEVICE(n);
    rates->aip = 90 - n;
    return OK;
}

int hlml_device_get_memory_info(void *handle, memory *bytes) {
    DEVICE(n);
    bytes->total = 128ull << 30;
    bytes->used = (n + 1ull) << 30;
    bytes->free = bytes->total - bytes->used;
    return OK;
}

int hlml_device_get_temperature(void *handle, unsigned sensor, unsigned *celsius) {
    DEVICE(n);
    if (n == 1 && sensor == 1) return NOT_SUPPORTED;
    *celsius = 50 - 10 * sensor + n;
    return OK;
}

int hlml_device_get_power_usage(void *handle, unsigned *milliwatts) {
    DEVICE(n);
    *milliwatts = 400500 + n * 1000;
    return OK;
}

int hlml_device_get_total_energy_consumption(void *handle, unsigned long long *millijoules) {
    DEVICE(n);
    *millijoules = 5000000001500ull + n; /* more than 32 bits hold */
    return OK;
}

int hlml_device_get_clock_info(void *handle, unsigned type, unsigned *megahertz) {
    DEVICE(n);
    if (n == 1) return NOT_SUPPORTED;
    *megahertz = 1600 + type;
    return OK;
}

int hlml_device_get_max_clock_info(void *handle, unsigned type, unsigned *megahertz) {
    DEVICE(n);
    if (n == 1) return NOT_SUPPORTED;
    *megahertz = 1800 + type;
    return OK;
}

int hlml_device_get_total_ecc_errors(void *handle, unsigned kind, unsigned since, long long *count) {
    DEVICE(n);
    *count = since ? 1000 : 7 + 10 * kind + n;
    return OK;
}

int hlml_device_get_pcie_replay_counter(void *handle, unsigned *count) {
    DEVICE(n);
    *count = 3 + n;
    return OK;
}

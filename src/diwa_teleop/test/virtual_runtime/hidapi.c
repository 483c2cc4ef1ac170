/* A small hidapi for tests: one device, whose reports come through a named pipe.
 *
 * DIWA_VIRTUAL_HID names the pipe; the device is plugged in while it exists. The first byte of a report in the pipe is
 * its length. The first line of the file beside it, PIPE.id, holds vendor and product in hexadecimal digits.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

struct hid_device_info {
    char *path;
    unsigned short vendor_id, product_id;
    wchar_t *serial_number;
    unsigned short release_number;
    wchar_t *manufacturer_string, *product_string;
    unsigned short usage_page, usage;
    int interface_number;
    struct hid_device_info *next;
};

static struct hid_device_info device;

static const char *pipe_path(void) {
    const char *path = getenv("DIWA_VIRTUAL_HID");
    return path != NULL && access(path, F_OK) == 0 ? path : NULL;
}

struct hid_device_info *hid_enumerate(unsigned short vendor, unsigned short product) {
    char name[4096];
    unsigned found_vendor = 0, found_product = 0;
    if (pipe_path() == NULL)
        return NULL;
    snprintf(name, sizeof name, "%s.id", pipe_path());
    FILE *file = fopen(name, "r");
    if (file == NULL)
        return NULL;
    int count = fscanf(file, "%x %x", &found_vendor, &found_product);
    fclose(file);
    if (count != 2)
        return NULL;
    device.path = (char *)pipe_path();
    device.vendor_id = (unsigned short)found_vendor;
    device.product_id = (unsigned short)found_product;
    device.serial_number = L"1", device.manufacturer_string = L"virtual", device.product_string = L"virtual";
    return &device;
}

void hid_free_enumeration(struct hid_device_info *all) {}

void *hid_open_path(const char *path) {
    int *opened = malloc(sizeof *opened);
    *opened = open(path, O_RDONLY | O_NONBLOCK);
    if (*opened < 0) {
        free(opened);
        return NULL;
    }
    return opened;
}

void hid_close(int *opened) {
    close(*opened);
    free(opened);
}

int hid_set_nonblocking(int *opened, int nonblocking) { return 0; }

int hid_read(int *opened, unsigned char *data, size_t room) {
    unsigned char length = 0, report[255];
    if (pipe_path() == NULL)
        return -1;
    if (read(*opened, &length, 1) != 1)
        return 0;
    if (read(*opened, report, length) != length)
        return -1;
    memset(data, 0, room);
    memcpy(data, report, length < room ? length : room);
    return length < room ? length : (int)room;
}

int hid_write(int *opened, const unsigned char *data, size_t length) { return (int)length; }

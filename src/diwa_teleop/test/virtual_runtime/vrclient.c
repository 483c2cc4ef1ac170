/* A small OpenVR runtime for tests: what the openvr client loads instead of SteamVR's vrclient.so.
 *
 * It serves the two interfaces that the client asks for, with the functions that an operator needs; every other one
 * answers 0. What they say stands in a file that the test writes and that is mapped into this process; its layout is
 * `struct room` here and `Room` in virtual_vive.py.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DEVICES = 8, TEXT = 32, AXES = 5, FUNCTIONS = 48 };
enum { NO_DEVICE = 0xFFFFFFFF };
enum { ERROR_NONE = 0, ERROR_INTERFACE = 105, ERROR_NOT_FOUND = 110, ERROR_NOT_RUNNING = 121 };
enum { PROPERTY_OK = 0, PROPERTY_UNKNOWN = 4, PROPERTY_NO_ROOM = 3 };
enum { MODEL = 1001, SERIAL = 1002, BATTERY = 1012, QUIT = 700 };

struct device {
    int32_t kind, role;
    uint32_t connected, valid;
    int32_t tracking;
    float pose[12], velocity[3], turning[3];
    uint32_t packet;
    uint32_t buttons[2]; /* low and high half of 64 bits */
    float axes[2 * AXES];
    float battery; /* below 0: the device has none */
    char serial[TEXT], model[TEXT];
};

struct room {
    uint32_t sequence; /* odd while it is being written */
    uint32_t running, quits, clients, acknowledged, readings;
    struct device devices[DEVICES];
};

/* The client's structures. */
struct pose {
    float matrix[12], velocity[3], turning[3];
    int32_t tracking;
    uint8_t valid, connected;
};

#pragma pack(push, 4)
struct controller {
    uint32_t packet;
    uint64_t pressed, touched;
    float axes[2 * AXES];
};
struct event {
    uint32_t kind, device;
    float age_s;
};
#pragma pack(pop)

static struct room *shared;
static uint32_t quits_told;

/* A copy of one device that nobody was writing meanwhile. */
static struct device look(uint32_t index) {
    struct device copy;
    uint32_t before;
    memset(&copy, 0, sizeof copy);
    if (shared == NULL || index >= DEVICES)
        return copy;
    do {
        while ((before = __atomic_load_n(&shared->sequence, __ATOMIC_ACQUIRE)) % 2)
            ;
        memcpy(&copy, &shared->devices[index], sizeof copy);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    } while (__atomic_load_n(&shared->sequence, __ATOMIC_RELAXED) != before);
    return copy;
}

static void tell_pose(const struct device *device, struct pose *pose) {
    memcpy(pose->matrix, device->pose, sizeof pose->matrix);
    memcpy(pose->velocity, device->velocity, sizeof pose->velocity);
    memcpy(pose->turning, device->turning, sizeof pose->turning);
    pose->tracking = device->tracking;
    pose->valid = device->valid != 0;
    pose->connected = device->connected != 0;
}

/* IVRSystem_023 */

static void poses(int origin, float ahead_s, struct pose *all, uint32_t count) {
    for (uint32_t index = 0; index < count; index++) {
        struct device device = look(index);
        tell_pose(&device, &all[index]);
    }
}

static int32_t role_of(uint32_t index) { return look(index).role; }

static uint32_t index_of_role(int32_t role) {
    for (uint32_t index = 0; index < DEVICES; index++)
        if (role != 0 && look(index).role == role)
            return index;
    return NO_DEVICE;
}

static int32_t class_of(uint32_t index) { return look(index).kind; }

static uint8_t is_connected(uint32_t index) { return look(index).connected != 0; }

static float float_property(uint32_t index, int property, int32_t *error) {
    struct device device = look(index);
    int known = property == BATTERY && device.kind != 0 && device.battery >= 0.0f;
    *error = known ? PROPERTY_OK : PROPERTY_UNKNOWN;
    return known ? device.battery : 0.0f;
}

static uint32_t text_property(uint32_t index, int property, char *text, uint32_t room, int32_t *error) {
    struct device device = look(index);
    const char *value = property == SERIAL ? device.serial : property == MODEL ? device.model : "";
    uint32_t needed = (uint32_t)strnlen(value, TEXT - 1) + 1;
    if (needed == 1 || device.kind == 0) {
        *error = PROPERTY_UNKNOWN;
        return 0;
    }
    *error = room < needed ? PROPERTY_NO_ROOM : PROPERTY_OK;
    if (room >= needed)
        memcpy(text, value, needed);
    return needed;
}

static uint8_t next_event(struct event *event, uint32_t size) {
    uint32_t quits = shared == NULL ? 0 : __atomic_load_n(&shared->quits, __ATOMIC_ACQUIRE);
    if (quits_told == quits || size < sizeof *event)
        return 0;
    quits_told = quits;
    memset(event, 0, size);
    event->kind = QUIT;
    event->device = NO_DEVICE;
    return 1;
}

static uint8_t controller_with_pose(int origin, uint32_t index, struct controller *state, uint32_t size,
                                    struct pose *pose) {
    struct device device = look(index);
    if (size != sizeof *state || device.kind == 0)
        return 0;
    __atomic_fetch_add(&shared->readings, 1, __ATOMIC_RELAXED);
    tell_pose(&device, pose);
    state->packet = device.packet;
    state->pressed = state->touched = device.buttons[0] | (uint64_t)device.buttons[1] << 32;
    memcpy(state->axes, device.axes, sizeof state->axes);
    return device.connected != 0;
}

static void acknowledge_quit(void) {
    if (shared != NULL)
        __atomic_add_fetch(&shared->acknowledged, 1, __ATOMIC_RELEASE);
}

static const char *version(void) { return "virtual"; }

static long unused(void) { return 0; }

typedef void (*function)(void);

/* By their places in the client's table. */
static function functions[FUNCTIONS] = {
    [11] = (function)poses,           [17] = (function)index_of_role,    [18] = (function)role_of,
    [19] = (function)class_of,        [20] = (function)is_connected,     [22] = (function)float_property,
    [27] = (function)text_property,   [29] = (function)next_event,       [35] = (function)controller_with_pose,
    [44] = (function)acknowledge_quit, [46] = (function)version,
};

/* IVRClientCore_003: an object of C++, that is a pointer to a table of functions whose first argument is the object. */

static int core_init(void *core, int application, const char *startup) {
    const char *path = getenv("DIWA_VIRTUAL_VIVE");
    int file = path == NULL ? -1 : open(path, O_RDWR);
    if (file < 0)
        return ERROR_NOT_FOUND;
    void *mapped = mmap(NULL, sizeof(struct room), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED)
        return ERROR_NOT_FOUND;
    shared = mapped;
    if (!shared->running) {
        munmap(shared, sizeof *shared);
        shared = NULL;
        return ERROR_NOT_RUNNING;
    }
    quits_told = shared->quits;
    __atomic_add_fetch(&shared->clients, 1, __ATOMIC_RELEASE);
    return ERROR_NONE;
}

static void core_cleanup(void *core) {
    if (shared == NULL)
        return;
    __atomic_sub_fetch(&shared->clients, 1, __ATOMIC_RELEASE);
    munmap(shared, sizeof *shared);
    shared = NULL;
}

static int core_knows(void *core, const char *name) {
    return strcmp(name, "IVRSystem_023") == 0 ? ERROR_NONE : ERROR_INTERFACE;
}

static void *core_interface(void *core, const char *name, int *error) {
    int known = strcmp(name, "FnTable:IVRSystem_023") == 0;
    *error = known ? ERROR_NONE : ERROR_INTERFACE;
    return known ? functions : NULL;
}

static uint8_t core_has_headset(void *core) { return 0; }

static const char *core_text(void *core, int error) { return "virtual"; }

static function core_functions[] = {
    (function)core_init,        (function)core_cleanup, (function)core_knows, (function)core_interface,
    (function)core_has_headset, (function)core_text,    (function)core_text,
};

static struct {
    function *table;
} core = {core_functions};

void *VRClientCoreFactory(const char *name, int *error) {
    int known = strcmp(name, "IVRClientCore_003") == 0;
    for (int index = 0; index < FUNCTIONS; index++)
        if (functions[index] == NULL)
            functions[index] = (function)unused;
    if (error != NULL)
        *error = known ? ERROR_NONE : ERROR_INTERFACE;
    return known ? (void *)&core : NULL;
}

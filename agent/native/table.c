/* Keys to things: a hash table for keys that are hashes already. */

#include "gate.h"

#define FIRST_SLOTS 64

static size_t place_of(const Map *map, uint64_t key)
{
    size_t at = (size_t)key & map->mask;
    while (map->slots[at].item != NULL && map->slots[at].key != key)
        at = (at + 1) & map->mask;
    return at;
}

static Slot *new_slots(size_t count) { return PyMem_Calloc(count, sizeof(Slot)); }

bool map_begin(Map *map)
{
    *map = (Map){new_slots(FIRST_SLOTS), FIRST_SLOTS - 1, 0};
    return map->slots != NULL;
}

void map_end(Map *map)
{
    PyMem_Free(map->slots);
    *map = (Map){NULL, 0, 0};
}

void *map_find(const Map *map, uint64_t key) { return map->slots[place_of(map, key)].item; }

static bool grow(Map *map)
{
    Map larger = {new_slots(2 * (map->mask + 1)), 2 * map->mask + 1, map->count};
    if (larger.slots == NULL)
        return false;
    for (size_t i = 0; i <= map->mask; i++) {
        if (map->slots[i].item != NULL)
            larger.slots[place_of(&larger, map->slots[i].key)] = map->slots[i];
    }
    PyMem_Free(map->slots);
    *map = larger;
    return true;
}

bool map_add(Map *map, uint64_t key, void *item)
{
    if (2 * (map->count + 1) > map->mask && !grow(map)) /* at most half full: probes stay short */
        return false;
    map->slots[place_of(map, key)] = (Slot){key, item};
    map->count++;
    return true;
}

/* Without tombstones: what stands behind the hole and was pushed past it moves up. */
void map_remove(Map *map, uint64_t key)
{
    size_t hole = place_of(map, key);
    if (map->slots[hole].item == NULL)
        return;
    map->count--;
    for (size_t at = (hole + 1) & map->mask; map->slots[at].item != NULL; at = (at + 1) & map->mask) {
        size_t home = (size_t)map->slots[at].key & map->mask;
        if (((at - home) & map->mask) >= ((at - hole) & map->mask)) {
            map->slots[hole] = map->slots[at];
            hole = at;
        }
    }
    map->slots[hole] = (Slot){0, NULL};
}

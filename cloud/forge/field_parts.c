/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/field_parts.h"

#include "common/base/macros.h"

/* clang-format off */
#define PARTS(name) {name, SHOAL_COUNT(name), name##_held, SHOAL_COUNT(name##_held)}

/* --- around every question -------------------------------------------------------------------- */

static const forge_part openings[] = {
    {"", 30}, {"hi, ", 2}, {"hello, ", 2}, {"please, ", 1}, {"sorry, ", 1},
    {"quick question, ", 1}, {"good morning, ", 1},
};
static const char *const openings_held[] = {
    "hello, quick question, ", "hi, sorry, ", "good morning, please, ", "hello, sorry, ",
};
static const forge_part closings[] = {
    {"", 30}, {", please", 2}, {", thanks", 2}, {", it is urgent", 1}, {", we are waiting", 1},
};
static const char *const closings_held[] = {
    ", please, thanks", ", it is urgent, thanks", ", please, we are waiting",
};

/* --- faults ----------------------------------------------------------------------------------- */

static const forge_part subjects[] = {
    {"$D shows $C", 6}, {"$D $C", 6}, {"$C on $D", 4}, {"the $D shows $C", 3}, {"$D has $C", 3},
    {"$D reports $C", 2}, {"$C on the $D", 2}, {"my $D says $C", 2}, {"code $C on $D", 2},
    {"$D says code $C", 1}, {"$D with $C", 1}, {"the $D has fault $C", 1}, {"fault $C at $D", 1},
    {"we have $C on a $D", 1}, {"error $C on our $D", 1},
};
static const char *const subjects_held[] = {
    "$D shows fault $C", "the $D reports code $C", "my $D has $C", "error $C at the $D",
    "we have a $D with $C",
};

static const forge_part asks_full[] = {
    {"", 8}, {", what now", 4}, {", what is it", 3}, {", what does it mean", 2},
    {", what do I do", 2}, {", what is wrong", 2}, {", help", 2}, {", any idea", 1},
    {", please explain", 1}, {", what should we do", 1}, {", can you help", 1},
    {", what is that", 1}, {", tell me more", 1},
};
static const char *const asks_full_held[] = {
    ", what does that mean", ", what should I do", ", please can you explain", ", what can we do",
    ", please help me",
};
static const forge_part asks_cause[] = {
    {", why", 4}, {", what is the cause", 3}, {", what causes it", 2}, {", cause", 2},
    {", why is that", 1}, {", where does it come from", 1},
};
static const char *const asks_cause_held[] = {
    ", what causes that", ", what is the cause of that", ", why is it",
};
static const forge_part asks_remedy[] = {
    {", how do I fix it", 4}, {", what is the fix", 3}, {", how to repair it", 2},
    {", remedy", 2}, {", how can we fix that", 1}, {", what is the remedy", 1},
};
static const char *const asks_remedy_held[] = {
    ", how to fix it", ", how can I repair it", ", how do we fix it",
};
static const forge_part asks_part[] = {
    {", which part", 4}, {", which part do I need", 2}, {", part number", 2},
    {", what spare part", 1}, {", what part do we need", 1}, {", which spare", 1},
};
static const char *const asks_part_held[] = {
    ", which spare do we need", ", what part number", ", which part do we need",
};

static const forge_part nouns[] = {
    {"$C on $D", 6}, {"$D $C", 4}, {"$C on the $D", 3}, {"$C on a $D", 2}, {"code $C on $D", 2},
    {"$D code $C", 2}, {"error $C on my $D", 1}, {"fault $C at $D", 1}, {"$D error $C", 1},
    {"$C with our $D", 1},
};
static const char *const nouns_held[] = {
    "fault $C on the $D", "code $C at $D", "$D fault $C", "error $C with a $D", "$C at our $D",
};
static const forge_part leads_full[] = {
    {"what is $N", 4}, {"explain $N", 3}, {"what does $N mean", 3}, {"help with $N", 2},
    {"what to do about $N", 2}, {"tell me about $N", 1}, {"can you explain $N", 1},
    {"what do I do with $N", 1}, {"I need help with $N", 1}, {"any idea about $N", 1},
};
static const char *const leads_full_held[] = {
    "can you help with $N", "what to do with $N", "I need to explain $N", "tell me what $N is",
    "what can I do about $N",
};
static const forge_part leads_cause[] = {
    {"why $N", 4}, {"what causes $N", 3}, {"cause of $N", 2}, {"what is the cause of $N", 2},
    {"where does $N come from", 1}, {"tell me why $N", 1},
};
static const char *const leads_cause_held[] = {
    "tell me the cause of $N", "tell me what causes $N", "why is $N",
};
static const forge_part leads_remedy[] = {
    {"how do I fix $N", 4}, {"fix for $N", 3}, {"how to repair $N", 2}, {"remedy for $N", 2},
    {"how can we fix $N", 1}, {"what is the remedy for $N", 1},
};
static const char *const leads_remedy_held[] = {
    "how to fix $N", "how do we repair $N", "what is the fix for $N",
};
static const forge_part leads_part[] = {
    {"which part for $N", 4}, {"part for $N", 2}, {"part number for $N", 2},
    {"which spare part do I need for $N", 1}, {"what part for $N", 1},
    {"what spare do we need for $N", 1},
};
static const char *const leads_part_held[] = {
    "spare part for $N", "which part do we need for $N", "what part number for $N",
};

/* --- commands --------------------------------------------------------------------------------- */

static const forge_part commands_switch[] = {
    {"turn $V the $R $G", 4}, {"$R $G $V", 4}, {"switch the $R $G $V", 3},
    {"turn the $G in the $R $V", 2}, {"switch $V the $G in the $R", 2}, {"$G in the $R $V", 1},
    {"set the $R $G to $V", 1}, {"in the $R, the $G should be $V", 1},
    {"can you turn $V the $G in the $R", 1}, {"I want the $R $G $V", 1},
};
static const char *const commands_switch_held[] = {
    "turn the $R $G $V", "switch $V the $R $G", "in the $R, turn $V the $G",
    "can you switch the $R $G $V", "I want the $G in the $R $V",
};
static const forge_part commands_door[] = {
    {"$V the $R $G", 4}, {"$V the $G in the $R", 4}, {"in the $R, $V the $G", 2}, {"$V $R $G", 2},
    {"can you $V the $R $G", 1}, {"we need to $V the $R $G", 1},
    {"I want to $V the $G in the $R", 1},
};
static const char *const commands_door_held[] = {
    "I want to $V the $R $G", "can you $V the $G in the $R", "we need to $V the $G in the $R",
    "in the $R, can you $V the $G",
};
static const forge_part commands_level[] = {
    {"set the $R $G to $X", 4}, {"$R $G to $X", 4}, {"set the $G in the $R to $X", 2},
    {"turn the $R $G to $X", 2}, {"in the $R, set the $G to $X", 1}, {"$G in the $R at $X", 1},
    {"can you set the $R $G to $X", 1}, {"I want the $R $G at $X", 1},
};
static const char *const commands_level_held[] = {
    "turn the $G in the $R to $X", "I want the $G in the $R at $X", "set $R $G to $X",
    "can you turn the $R $G to $X",
};

/* --- conversions and strange questions -------------------------------------------------------- */

static const forge_part conversions[] = {
    {"$X $U in $T", 5}, {"convert $X $U to $T", 4}, {"what is $X $U in $T", 3}, {"$X $U to $T", 2},
    {"how many $T is $X $U", 2}, {"in $T, how much is $X $U", 1}, {"give me $X $U in $T", 1},
    {"I need $X $U as $T", 1}, {"can you convert $X $U to $T", 1},
};
static const char *const conversions_held[] = {
    "how much is $X $U in $T", "convert $X $U in $T", "I need $X $U in $T", "give me $X $U as $T",
    "in $T, what is $X $U",
};

static const forge_part strange[] = {
    {"tell me a joke", 1}, {"write a poem", 1}, {"sing a song", 1}, {"who won the match today", 1},
    {"what is the weather today", 1}, {"tell me the news", 1}, {"what time is it", 1},
    {"write me a story", 1}, {"who is the president", 1}, {"what do you think about music", 1},
    {"where can I eat a pizza", 1}, {"can you play chess", 1}, {"what is the meaning of life", 1},
    {"who are you", 1}, {"book a flight for me", 1}, {"what is a good film", 1},
    {"do you like football", 1}, {"who wrote the song", 1}, {"how old are you", 1},
    {"recommend a good book", 1},
};
static const char *const strange_held[] = {
    "tell me a story", "write a song", "sing me a poem", "recommend a film", "do you like chess",
    "what is the news today",
};

const forge_grammar shoal_forge_grammar = {
    .components = {"valve", "pump", "fan", "filter", "sensor", "relay", "fuse", "motor",
                   "bearing", "belt", "gasket", "hose", "nozzle", "strainer", "inlet", "outlet",
                   "heater", "cooler", "display", "battery", "charger", "antenna", "cable",
                   "clutch", "gearbox", "piston", "damper", "impeller", "burner", "igniter",
                   "switch", "spring"},
    .failures = {{"blocked", "clear"}, {"dirty", "clean"}, {"worn", "replace"},
                 {"loose", "tighten"}, {"cracked", "replace"}, {"burnt", "replace"},
                 {"wet", "dry"}, {"jammed", "free"}, {"leaking", "seal"}, {"frozen", "thaw"},
                 {"corroded", "clean"}, {"bent", "align"}, {"hot", "cool"}, {"noisy", "oil"},
                 {"dead", "reset"}, {"shorted", "rewire"}},
    .families = {"Heron", "Falcon", "Otter", "Badger", "Lynx", "Raven", "Tiger", "Cobra", "Eagle",
                 "Bison", "Camel", "Dingo", "Gecko", "Hippo", "Jackal", "Koala", "Lemur", "Moose",
                 "Newt", "Osprey", "Panda", "Quail", "Rhino", "Stork", "Tapir"},
    .strangers = {"Walrus", "Zebra", "Wolf", "Viper", "Turtle", "Swan", "Shark", "Puma", "Pike",
                  "Parrot", "Owl", "Mole", "Lion", "Hawk", "Goose", "Fox", "Ferret", "Crow",
                  "Crane", "Cheetah", "Buffalo", "Beaver", "Ant", "Alpaca"},
    .rooms = {"kitchen", "cellar", "hall", "office", "lab", "workshop", "garage", "attic", "lobby",
              "barn", "dock", "yard", "pantry", "bakery", "canteen", "archive", "studio", "gym",
              "nursery", "library", "laundry", "shop", "chapel", "stable"},
    .gears = {{"fan", FORGE_GEAR_SWITCH, 0, 0, 0}, {"pump", FORGE_GEAR_SWITCH, 0, 0, 0},
              {"heater", FORGE_GEAR_SWITCH, 0, 0, 0}, {"lamp", FORGE_GEAR_SWITCH, 0, 0, 0},
              {"siren", FORGE_GEAR_SWITCH, 0, 0, 0}, {"mixer", FORGE_GEAR_SWITCH, 0, 0, 0},
              {"boiler", FORGE_GEAR_SWITCH, 0, 0, 0}, {"valve", FORGE_GEAR_DOOR, 0, 0, 0},
              {"door", FORGE_GEAR_DOOR, 0, 0, 0}, {"gate", FORGE_GEAR_DOOR, 0, 0, 0},
              {"window", FORGE_GEAR_DOOR, 0, 0, 0}, {"shutter", FORGE_GEAR_DOOR, 0, 0, 0},
              {"thermostat", FORGE_GEAR_LEVEL, 10, 30, 1},
              {"dimmer", FORGE_GEAR_LEVEL, 10, 90, 10}, {"timer", FORGE_GEAR_LEVEL, 5, 60, 5}},
    .unit_pairs = {{"C", "F", 0, 100, 5, 0, 9, 5, 32}, {"F", "C", 30, 100, 5, 32, 5, 9, 0},
                   {"bar", "psi", 2, 20, 1, 0, 145038, 10000, 0},
                   {"psi", "bar", 10, 100, 5, 0, 689476, 10000000, 0},
                   {"m", "ft", 2, 20, 1, 0, 328084, 100000, 0},
                   {"ft", "m", 5, 60, 5, 0, 3048, 10000, 0},
                   {"kg", "lb", 2, 20, 1, 0, 220462, 100000, 0},
                   {"lb", "kg", 5, 60, 5, 0, 453592, 1000000, 0},
                   {"km", "miles", 5, 60, 5, 0, 621371, 1000000, 0},
                   {"miles", "km", 2, 20, 1, 0, 1609344, 1000000, 0},
                   {"litres", "gallons", 5, 60, 5, 0, 264172, 1000000, 0},
                   {"gallons", "litres", 2, 20, 1, 0, 378541, 100000, 0},
                   {"kW", "hp", 2, 20, 1, 0, 134102, 100000, 0},
                   {"hp", "kW", 5, 60, 5, 0, 745700, 1000000, 0}},
    .openings = PARTS(openings),
    .closings = PARTS(closings),
    .subjects = PARTS(subjects),
    .asks = {PARTS(asks_full), PARTS(asks_cause), PARTS(asks_remedy), PARTS(asks_part)},
    .nouns = PARTS(nouns),
    .leads = {PARTS(leads_full), PARTS(leads_cause), PARTS(leads_remedy), PARTS(leads_part)},
    .commands = {PARTS(commands_switch), PARTS(commands_door), PARTS(commands_level)},
    .conversions = PARTS(conversions),
    .strange = PARTS(strange),
};
/* clang-format on */

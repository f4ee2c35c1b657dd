#pragma once

/*
 * What an operator may look for, or wants explained: one line a message, with its MESSAGE_ID for
 * ever and its level. `journalctl -x` shows the texts of units/journal under a line with such an
 * id; lint holds list, texts and uses together.
 */

#include <syslog.h>

/* X(enumerator, MESSAGE_ID, level) */
#define MESSAGES(X)                                                                                \
        /* the life of a job, told by the agent */                                                 \
        X(MESSAGE_JOB_QUEUED, "c26cf27957e14bdd9029134c033323e0", LOG_INFO)                        \
        X(MESSAGE_JOB_STARTED, "dc9d51da8756439c87a8961cf45facdd", LOG_NOTICE)                     \
        X(MESSAGE_JOB_DONE, "f3da37f7cb2446bfb80b8e95247b7915", LOG_NOTICE)                        \
        X(MESSAGE_JOB_PARTIAL, "c0c9a7b827484928b7bd50c7e552225c", LOG_ERR)                        \
        X(MESSAGE_JOB_CANCELED, "d6bfd6082d4e4e1bbc5d50a84212b9fd", LOG_NOTICE)                    \
        X(MESSAGE_JOB_FAILED, "bc73065cd1ef46cba416b13e15ebeb9e", LOG_ERR)                         \
        X(MESSAGE_JOB_INTERRUPTED, "c9d54386a4cc4814922e7903829ff324", LOG_ERR)                    \
        /* backups */                                                                              \
        X(MESSAGE_BACKUP_COMPLETED, "dcf62816e73d42d287f9b95ff8a7751c", LOG_NOTICE)                \
        X(MESSAGE_POINT_TAKEN, "9f81112d9d824a4a9cb59e8a60009cf6", LOG_INFO)                       \
        X(MESSAGE_HOLD_DEGRADED, "5705e26444bd4fc98eb810399417b220", LOG_WARNING)                  \
        X(MESSAGE_NO_SNAPSHOT, "557aec8822184bdf8edca4e946bdbeb9", LOG_WARNING)                    \
        X(MESSAGE_SERVICE_LEFT_OUT, "ac5c199018a04ae08c8c7dd219a86229", LOG_ERR)                   \
        X(MESSAGE_SOURCE_UNREADABLE, "368e319b18754d2799a5534d8bfd8474", LOG_WARNING)              \
        X(MESSAGE_DATABASE_NOT_GOOD, "addacdc42c204db99f7a80eb02610663", LOG_WARNING)              \
        X(MESSAGE_BACKUP_EXPIRED, "1c20988543034aadb4eec9aa2fb41abd", LOG_NOTICE)                  \
        X(MESSAGE_BACKUP_DELETED, "c829e518c3fb45489fd532c98148c062", LOG_NOTICE)                  \
        X(MESSAGE_BACKUP_VANISHED, "1c46938308814f6ea10e8a59dfca0ad4", LOG_WARNING)                \
        X(MESSAGE_PRUNE_REFUSED, "dff4965738824e5492f2fd8076e2f749", LOG_ERR)                      \
        X(MESSAGE_DAMAGE_FOUND, "25fd254f58114e57939ad17bbd7e010b", LOG_ERR)                       \
        X(MESSAGE_LEFTOVER_SWEPT, "d4bcf7cf813d42f0aa37bf464fb24d65", LOG_NOTICE)                  \
        X(MESSAGE_SERVICE_OVERDUE, "5b8cb517f24347cb916861a88a21aa9f", LOG_WARNING)                \
        X(MESSAGE_SERVICE_CAUGHT_UP, "d24cc020e88147ee93ec661dfb0ea0f9", LOG_NOTICE)               \
        X(MESSAGE_SCHEDULE_SET, "f36d0c3c09e5460bba21995d80ee9e33", LOG_NOTICE)                    \
        X(MESSAGE_SCHEDULE_DELETED, "f551e3a0899c4e0da9a6f7d05bd6004d", LOG_NOTICE)                \
        /* restores by swap */                                                                     \
        X(MESSAGE_RESTORE_ACTIVE, "7e405a908b9b4be3a9f51cb758a8def8", LOG_NOTICE)                  \
        X(MESSAGE_RESTORE_ROLLED_BACK, "1f9b418fc4684bef859c4b0da58e53a8", LOG_NOTICE)             \
        X(MESSAGE_RESTORE_CONFIRMED, "0562fde9d046420fa35cb5ad4c85a650", LOG_NOTICE)               \
        X(MESSAGE_RESTORE_FAILED, "9861196424ee497bb7483d389a198e82", LOG_WARNING)                 \
        X(MESSAGE_RESTORE_RECOVERED, "2379462cec4448efb4bb2fd4c527794a", LOG_NOTICE)               \
        X(MESSAGE_RESTORE_GOES_BACK, "911a647c7fd64c2bb88a475c673a4419", LOG_WARNING)              \
        X(MESSAGE_RESTORE_UNITS_DOWN, "06fc07b141cc4bee9d0ee1561683859a", LOG_WARNING)             \
        X(MESSAGE_RESTORE_NEEDS_ATTENTION, "9f134b2218d24c5eb89eb6401dd6f47e", LOG_CRIT)           \
        /* keys */                                                                                 \
        X(MESSAGE_RECOVERY_KEY_UNPROVEN, "7aaa277d708a48b9bc435b8bd9e55d42", LOG_WARNING)          \
        X(MESSAGE_KEY_EXPORTED, "a91ec7bb85e8431eb03f0e36e98d785a", LOG_NOTICE)                    \
        X(MESSAGE_KEY_PROVEN, "d18e03a511024eb3ac0aa67d5488fd51", LOG_NOTICE)                      \
        X(MESSAGE_KEY_FORGOTTEN, "3d1ddb62981a4bc59994b40d206f7375", LOG_NOTICE)                   \
        /* the agent */                                                                            \
        X(MESSAGE_CALL_GRANTED, "c26071a1ac2c4b04b7bd1e3aa774c4df", LOG_INFO)                      \
        X(MESSAGE_CALL_DENIED, "037633c9550e4be7ac92c6ff5c4f4ae5", LOG_NOTICE)                     \
        X(MESSAGE_DENIALS_UNTOLD, "aa0a57d1c3f24212bf9c3b40cc1c53ad", LOG_WARNING)                 \
        X(MESSAGE_CONFIGURATION_RELOADED, "840bdf5e486d42c4af7d29474d48a1c7", LOG_NOTICE)          \
        X(MESSAGE_CONFIGURATION_REFUSED, "11c8f15ca81f44589f9219513ce14435", LOG_ERR)              \
        X(MESSAGE_START_REFUSED, "4df86739545a4286b24a02570dbbd88b", LOG_ERR)                      \
        X(MESSAGE_WORKERS_UNREACHABLE, "45bae97e66cd4dbdbda48582cece9a2f", LOG_WARNING)            \
        X(MESSAGE_CATALOGUE_UNWRITTEN, "4efdd12de33348df848e721febcb7874", LOG_ERR)                \
        X(MESSAGE_CATALOGUE_AWAY, "6e383c836d3c4ec48629b9fa789c0302", LOG_WARNING)                 \
        X(MESSAGE_CATALOGUE_BACK, "f4dfbe97b1e94cf3ba7f81df5f22d8ab", LOG_NOTICE)                  \
        /* why a worker could not do its job: the errors of base/fail.h that need a remedy */      \
        X(MESSAGE_ERROR_CONFIGURATION, "dabdfc0dd308474ab4433ea9bd106a22", LOG_ERR)                \
        X(MESSAGE_ERROR_HOLD_TIMEOUT, "5f2b162811b04ea9a85e2e405fe54150", LOG_ERR)                 \
        X(MESSAGE_ERROR_SNAPSHOT_FAILED, "e0a81b1a5cc44470842029555a4436db", LOG_ERR)              \
        X(MESSAGE_ERROR_SNAPSHOT_FULL, "226469a2628844d8af3fc774544a967b", LOG_ERR)                \
        X(MESSAGE_ERROR_NO_SPACE, "714a1db5450549dab0d3f54e66dc7659", LOG_ERR)                     \
        X(MESSAGE_ERROR_SOURCE_MISSING, "f0b387ee14ac4814a7f8d98d1b8a49a8", LOG_ERR)               \
        X(MESSAGE_ERROR_INTEGRITY, "2f4e2501453246c3917565a0cedc604f", LOG_ERR)                    \
        X(MESSAGE_ERROR_KEY_MISSING, "6eb3ea6a927a4f6bb194626b4f7e944c", LOG_ERR)                  \
        X(MESSAGE_ERROR_NOT_RESTORABLE, "67b8d2c0f77d42d187cee2b9a48f671c", LOG_ERR)               \
        X(MESSAGE_ERROR_TARGET_IN_USE, "43242c2261fa43eb821e51fd7f979444", LOG_ERR)

typedef enum Message {
        MESSAGE_NONE,
#define X(name, id, level) name,
        MESSAGES(X)
#undef X
} Message;

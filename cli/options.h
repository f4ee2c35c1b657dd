#pragma once

/*
 * The command line: the table of verbs and its options.
 */

#include "cli/cli.h"

/* Fills verb, operands and options. 0; 1 when help or version was asked for and printed; or an
 * error. */
int options_parse(Cli *cli, int argc, char **argv, const Verb **ret);

/* All verbs; ends with a NULL name. */
const Verb *options_verbs(void);

void options_print_help(void);
void options_print_verb_help(const Verb *verb);

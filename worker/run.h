#pragma once

/*
 * The verbs. Each returns 0 (`*ret_result` "done" or "partial", literals; a partial fills reterr
 * with why) or a negative errno with reterr; main.c turns that into the RESULT. `ret_summary` is
 * owned by the caller in every case and may be set on failure too.
 */

#include "worker/work.h"

int run_create(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_import(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_diagnose(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_sweep(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_open_image(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_open_top(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_restore(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_plan(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_prove(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_rollback(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_recover(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_confirm(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_verify(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_delete(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_list(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_diff(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_pin(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_prune(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_repository(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_export(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_reconcile(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_export_key(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_prove_key(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_forget_key(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_list_schedules(Work *w,
                       const char **ret_result,
                       json_object **ret_summary,
                       Failure *reterr);
int run_set_schedule(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);
int run_delete_schedule(Work *w,
                        const char **ret_result,
                        json_object **ret_summary,
                        Failure *reterr);
int run_default_schedule(Work *w,
                         const char **ret_result,
                         json_object **ret_summary,
                         Failure *reterr);

# bash completion for holdpoint(1)

_holdpoint_ids() {
        # Ids of backups or restores, asked of the agent; nothing when it does not answer at once.
        timeout 1 holdpoint "$1" 2>/dev/null </dev/null | awk 'NR > 1 { print $1 }'
}

_holdpoint_services() {
        timeout 1 holdpoint status --json 2>/dev/null </dev/null |
                tr -d ' \n' | sed -n 's/.*"services":\[\([^]]*\)\].*/\1/p' | tr -d '"' | tr ',' '\n'
}

_holdpoint() {
        local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb='' word i
        local verbs="create list show restore files diff export import restores rollback confirm verify delete
                     pin unpin prune jobs cancel status doctor monitor key repository schedule help"
        local -A options=(
                [create]="--name --description --include-files --no-include-files --compression-level --pinned --no-wait"
                [list]="--type --status --service --page --limit"
                [show]="--service"
                [restore]="--service --path --into --from --allow-partial --key --dry-run --yes --no-wait"
                [files]="--service --path"
                [diff]="--service"
                [export]="--service --path --format --output --key"
                [import]="--name --description --no-wait"
                [jobs]="--state --type --backup-id --page --limit"
                [key]="--output --yes"
                [schedule]="--frequency --time --calendar --retention-days --enabled --type --description --yes --no-wait"
                [restores]="--service"
                [rollback]="--yes --no-wait"
                [confirm]="--yes --no-wait"
                [verify]="--depth --service --key --no-wait"
                [delete]="--yes --no-wait"
                [prune]="--dry-run --yes --no-wait"
        )

        # Bash may split "--option=value" at the equals sign.
        if [[ $prev == "=" ]]; then
                prev=${COMP_WORDS[COMP_CWORD - 2]}
        elif [[ $cur == "=" ]]; then
                cur=
        fi
        for ((i = 1; i < COMP_CWORD; i++)); do
                word=${COMP_WORDS[i]}
                if [[ " ${verbs//[$'\n\t ']/ } " == *" $word "* ]]; then
                        verb=$word
                        break
                fi
        done

        COMPREPLY=()
        case $prev in
        --service) mapfile -t COMPREPLY < <(compgen -W "$(_holdpoint_services)" -- "$cur") && return ;;
        --state) mapfile -t COMPREPLY < <(compgen -W "queued running canceling finished all" -- "$cur") && return ;;
        --backup-id) mapfile -t COMPREPLY < <(compgen -W "$(_holdpoint_ids list)" -- "$cur") && return ;;
        --type) mapfile -t COMPREPLY < <(compgen -W "full all $(_holdpoint_services)" -- "$cur") && return ;;
        --status) mapfile -t COMPREPLY < <(compgen -W "running completed partial failed all" -- "$cur") && return ;;
        --from) mapfile -t COMPREPLY < <(compgen -W "auto hot local" -- "$cur") && return ;;
        --depth) mapfile -t COMPREPLY < <(compgen -W "metadata data restore" -- "$cur") && return ;;
        --include-files) mapfile -t COMPREPLY < <(compgen -W "yes no" -- "$cur") && return ;;
        --into) mapfile -t COMPREPLY < <(compgen -d -- "$cur") && return ;;
        --frequency) mapfile -t COMPREPLY < <(compgen -W "daily weekly monthly" -- "$cur") && return ;;
        --enabled) mapfile -t COMPREPLY < <(compgen -W "yes no" -- "$cur") && return ;;
        --format) mapfile -t COMPREPLY < <(compgen -W "tar tar.zst" -- "$cur") && return ;;
        --key | --output | -o) mapfile -t COMPREPLY < <(compgen -f -- "$cur") && return ;;
        --name | --description | --path | --page | --limit | --compression-level | --time | --calendar | --retention-days) return ;;
        esac

        if [[ $cur == -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "${options[$verb]:-} --json --help --version" -- "$cur")
                return
        fi
        case $verb in
        "" | help) mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$cur") ;;
        create) mapfile -t COMPREPLY < <(compgen -W "full $(_holdpoint_services)" -- "$cur") ;;
        import) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        schedule) mapfile -t COMPREPLY < <(compgen -W "list show set run delete" -- "$cur") ;;
        key) mapfile -t COMPREPLY < <(compgen -W "export-recovery prove forget-private" -- "$cur") ;;
        show | restore | verify | files | diff | export) mapfile -t COMPREPLY < <(compgen -W "latest $(_holdpoint_ids list)" -- "$cur") ;;
        delete | pin | unpin) mapfile -t COMPREPLY < <(compgen -W "$(_holdpoint_ids list)" -- "$cur") ;;
        rollback | confirm) mapfile -t COMPREPLY < <(compgen -W "latest $(_holdpoint_ids restores)" -- "$cur") ;;
        jobs | cancel) mapfile -t COMPREPLY < <(compgen -W "$(_holdpoint_ids jobs)" -- "$cur") ;;
        esac
}

complete -F _holdpoint holdpoint

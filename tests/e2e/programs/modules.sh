# shellcheck shell=bash
# A stand-in for the module command of Environment Modules and Lmod: a function whose work is done by
# text that a program prints, which reports on standard error and returns whether it could be done. The
# only module that there is, is stack/2026.

modulecmd() {
  if [[ $1 == load && $2 == stack/2026 ]]; then
    printf 'export STACK_VERSION=2026\ntrue\n'
  else
    printf 'Unable to locate a modulefile for %q\n' "${2-}" >&2
    printf 'false\n'
  fi
}

module() {
  local text status
  text=$(modulecmd "$@")
  eval "$text"
  status=$?
  return "$status"
}

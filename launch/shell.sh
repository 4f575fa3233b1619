# What the launchers in this folder share: reading flags, quoting, and printing commands instead of running them.
# shellcheck shell=bash

dry_run=''
job=() # what follows -- on the command line

# The comment at the top of the script, without the line that names the shell.
usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

# Ends with one plain line and exit code 2.
fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# read_flags VALUES SWITCHES ARGUMENT...: sets the variable `flag` for each --flag=value whose name is among VALUES, sets
# it to "yes" for each --flag among SWITCHES, and leaves what follows -- in `job`.
read_flags() {
  local values=" $1 " switches=" $2 dry_run " flag
  shift 2
  while (($# > 0)); do
    flag=${1#--}
    flag=${flag%%=*}
    case $1 in
    --help) usage && exit 0 ;;
    --) shift && job=("$@") && return ;;
    --*=*)
      [[ $values == *" $flag "* ]] || fail "unknown flag $1 (--help lists all)"
      printf -v "$flag" '%s' "${1#*=}"
      ;;
    --*)
      [[ $values != *" $flag "* ]] || fail "--$flag has no value; write --$flag=VALUE"
      [[ $switches == *" $flag "* ]] || fail "unknown flag $1 (--help lists all)"
      printf -v "$flag" 'yes'
      ;;
    *) fail "unexpected $1; flags are --flag=value, and the job follows -- (--help lists all)" ;;
    esac
    shift
  done
}

# need FLAG...: each was given.
need() {
  local flag
  for flag; do
    [[ -n ${!flag} ]] || fail "no --$flag; give --$flag=VALUE (--help lists all)"
  done
}

# whole FLAG...: each is a whole number.
whole() {
  local flag
  for flag; do
    [[ ${!flag} =~ ^[0-9]+$ ]] || fail "--$flag=${!flag} is no whole number"
  done
}

need_job() {
  ((${#job[@]} > 0)) || fail 'no job; give it after --, for example: -- run --config=configs/digits.py --workdir=/shared/digits'
}

# need_tool PROGRAM WHERE: it is installed; WHERE says how to get it. A dry run needs none.
need_tool() {
  [[ -n $dry_run ]] || command -v "$1" >/dev/null || fail "$1 is not installed; $2"
}

# The arguments as one line that a shell reads as the same arguments.
quote() {
  local word line=''
  for word; do
    if [[ -z $word || $word == *[!A-Za-z0-9_@%+=:,./-]* ]]; then
      word="'${word//\'/\'\"\'\"\'}'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Runs a command, or prints it in a dry run.
do_or_print() {
  if [[ -n $dry_run ]]; then
    quote "$@"
  else
    "$@"
  fi
}

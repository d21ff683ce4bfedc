#!/bin/sh
# Merge two model directories by command line: see the plan, align and average, and check an aligned copy.
#
#     sh examples/merge.sh A B OUT
set -eu
if [ "$#" -ne 3 ]; then
  echo "usage: sh merge.sh A B OUT" >&2
  exit 2
fi

lmc-fast inspect "$1"                               # what may be permuted, and what holds the rest
lmc-fast merge "$1" "$2" -o "$3" --dry-run          # groups, memory, reads, time: nothing is written
lmc-fast merge "$1" "$2" -o "$3"                    # stopped, it goes on with --resume
lmc-fast merge "$1" "$2" -o "$3-aligned" --align-only
lmc-fast verify "$3-aligned" --against "$2"         # B with its units elsewhere computes what B does

#!/bin/sh
# Stands in for a query worker (query-worker --ledger DIR --keys DIR) that does what the question says.
# Its pid is in DIR/workers before anything is answered.
question=$(cat)
: > "$3/workers/$$"
case $question in
    '"wait"') exec sleep 600 ;;
    '"die"')
        echo '{"n":1}'
        kill -KILL $$
        ;;
    '"flood"') exec yes '{"n":1}' ;;
esac

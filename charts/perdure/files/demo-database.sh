for programs in /usr/lib/postgresql/*/bin; do PATH="$PATH:$programs"; done
if [ ! -d "$PGDATA" ]; then
  # Under another name until it is whole, so that a pod that dies half-way leaves nothing that looks done.
  rm -rf "$PGDATA.new"
  printf '%s' "$PASSWORD" > "$PGDATA.password"
  initdb --pgdata="$PGDATA.new" --username=perdure --pwfile="$PGDATA.password" --auth=scram-sha-256 --encoding=UTF8 --no-locale
  rm "$PGDATA.password"
  echo 'host all all all scram-sha-256' >> "$PGDATA.new/pg_hba.conf"
  echo 'CREATE DATABASE perdure;' | postgres --single -D "$PGDATA.new" postgres > /dev/null
  mv "$PGDATA.new" "$PGDATA"
fi
unset PASSWORD
postgres -c listen_addresses='*' -c unix_socket_directories=/tmp &
# Disconnect clients and stop; what SIGTERM means to PostgreSQL would wait for them to leave.
trap 'kill -s INT $!' TERM INT
wait $! || wait $!

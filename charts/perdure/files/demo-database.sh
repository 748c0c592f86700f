for programs in /usr/lib/postgresql/*/bin; do PATH="$PATH:$programs"; done
data=/data/postgresql
if [ ! -d "$data" ]; then
  # Under another name until it is whole, so that a pod that dies half-way leaves nothing that looks done.
  rm -rf "$data.new"
  printf '%s' "$PASSWORD" > /tmp/password
  initdb --pgdata="$data.new" --username=perdure --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 --no-locale
  rm /tmp/password
  echo 'host all all all scram-sha-256' >> "$data.new/pg_hba.conf"
  echo 'CREATE DATABASE perdure;' | postgres --single -D "$data.new" postgres > /dev/null
  mv "$data.new" "$data"
fi
unset PASSWORD
postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp &
# Disconnect clients and stop; what SIGTERM means to PostgreSQL would wait for them to leave.
trap 'kill -s INT $!' TERM INT
wait $! || wait $!

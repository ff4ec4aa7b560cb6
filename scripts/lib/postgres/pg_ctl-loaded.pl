# Stands in for pg_ctl while PostgreSQL's own test suites run with quorate loaded; loaded.ts puts the first lines in
# front. A server that would start as a primary starts as a node and is elected leader of a cohort of one; one that
# would start in recovery replays like a stock standby (quorate.restoring).
use strict;
use warnings;

use IO::Socket::UNIX;
use JSON::PP;
use Time::HiRes qw(sleep time);

our $bin;

use constant TIMEOUT_S => 120;

sub setting
{
	my ($data, $name) = @_;
	open(my $pipe, '-|', "$bin/postgres", '-D', $data, '-C', $name) or die "postgres -C: $!";
	my $value = <$pipe> // '';
	close $pipe;
	chomp $value;
	return $value;
}

sub latest_timeline
{
	my ($data) = @_;
	my $latest = 1;
	for my $file (glob "$data/pg_wal/*.history")
	{
		$latest = hex($1) if $file =~ /([0-9A-F]{8})\.history$/ && hex($1) > $latest;
	}
	for (qx("$bin/pg_controldata" -D "$data"))
	{
		$latest = $1 if /TimeLineID:\s+(\d+)/ && $1 > $latest;
	}
	return $latest;
}

sub ask
{
	my ($socket, $request) = @_;
	print $socket encode_json({ id => 1, %$request }), "\n";
	my $answer = decode_json(<$socket> // die "the control socket was closed\n");
	die "$request->{cmd}: $answer->{message}\n" unless $answer->{ok};
	return $answer;
}

sub connect_control
{
	my ($data) = @_;
	my $path = setting($data, 'quorate.control_socket');
	$path = "$data/$path" unless $path =~ m{^/};
	my $deadline = time + TIMEOUT_S;
	for (;;)
	{
		# A path may be longer than an address allows.
		my ($directory, $name) = $path =~ m{^(.*)/([^/]+)$};
		chdir $directory or die "$directory: $!\n";
		my $socket = IO::Socket::UNIX->new(Peer => $name);
		if ($socket)
		{
			$socket->autoflush(1);
			return $socket;
		}
		die "no control socket at $path\n" if time > $deadline;
		sleep 0.02;
	}
}

sub lead
{
	my ($data, $term) = @_;
	my $socket = connect_control($data);
	ask($socket, { cmd => 'fence', term => $term });
	ask($socket, { cmd => 'elect', term => $term, rule => 'n1', joint => [], ruleset => { version => $term, text => '{}' } });
	my $deadline = time + TIMEOUT_S;
	for (;;)
	{
		my $status = ask($socket, { cmd => 'status' })->{status};
		return if $status->{state} eq 'leader' && !$status->{inRecovery} && ($status->{ruleset}{term} // 0) == $term;
		die "the server has not become the leader\n" if time > $deadline;
		sleep 0.02;
	}
}

my @arguments = @ARGV;
my ($action) = grep { /^(start|restart)$/ } @arguments;
my $data = $ENV{PGDATA};
for my $i (0 .. $#arguments)
{
	$data = $arguments[ $i + 1 ] if $arguments[$i] =~ /^(-D|--pgdata)$/;
	$data = $1 if $arguments[$i] =~ /^(?:-D|--pgdata=)(.+)$/;
}
exec "$bin/pg_ctl", @arguments unless $action && defined $data && setting($data, 'shared_preload_libraries') =~ /\bquorate\b/;

my @more;

# A leader keeps the file; ours isn't empty. A test may make a standby of what was a primary.
my $recovers = -e "$data/recovery.signal" ||
  (-e "$data/standby.signal" && (-z _ || setting($data, 'primary_conninfo') ne '' || setting($data, 'restore_command') ne ''));
if ($recovers)
{
	push @more, '-o', '-c quorate.restoring=on';
}
else
{
	open(my $file, '>', "$data/standby.signal") or die "standby.signal: $!\n";
	print $file "quorate\n";
	close $file;
	push @more, '-o', '-c quorate.restoring=off';
	push @more, '-o', '-c wal_level=replica' if setting($data, 'wal_level') eq 'minimal';
}
# A node starts as a follower, so these may not be lower than they were (initdb has its own); nor may its standbys' be.
for (qx("$bin/pg_controldata" -D "$data"))
{
	next unless /^(max_\w+) setting:\s+(\d+)/;
	my ($name, $least) = ($1, $2);
	$name =~ s/_xact(s?)$/_transaction$1/;
	push @more, '-o', "-c $name=$least" if setting($data, $name) < $least;
}
my $term = latest_timeline($data) + 1;

# A backup is made consistent first, as `quorate restore` does: who isn't can't be elected.
if (!$recovers && -e "$data/backup_label")
{
	my @log = map { $arguments[$_] =~ /^(-l|--log)$/ ? @arguments[ $_, $_ + 1 ] : () } 0 .. $#arguments;
	my @restoring = map { $_ eq '-c quorate.restoring=off' ? '-c quorate.restoring=on' : $_ } @more;
	system("$bin/pg_ctl", @restoring, '-D', $data, @log, '--wait', 'start') == 0 or exit 1;
	system("$bin/pg_ctl", '-D', $data, '--wait', '-m', 'fast', 'stop') == 0 or exit 1;
}
my $code = system("$bin/pg_ctl", @more, @arguments);
exit($code >> 8 || 1) if $code != 0;
unless ($recovers)
{
	eval { lead($data, $term); 1 } or do
	{
		print STDERR "pg_ctl (quorate): $@";
		exit 1;
	};
}
exit 0;

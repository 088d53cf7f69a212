-- Nothing: values are compressed on PostgreSQL only. The numbers stay the same on both.
select 1;

-- Nothing: here a reference costs next to nothing. The numbers stay the same on both.
select 1;

-- Settings: who may set what.
SELECT name, context, vartype, min_val, max_val FROM pg_settings WHERE name LIKE 'quorate.%' ORDER BY name;
SHOW quorate.node_id;

SET quorate.member = on;
SET quorate.node_id = 'n2';
SET quorate.nonsense = 1;
SET quorate.control = on;
RESET quorate.control;

CREATE ROLE regress_quorate_user;
SET ROLE regress_quorate_user;
SET quorate.control = on;
SHOW quorate.control_socket;
RESET ROLE;
DROP ROLE regress_quorate_user;

-- Phase 1: the indices that the source queries use (recommendation_service/mappings/interacpedia/). Why and when:
-- docs/database/phase1_deployment_guide.md.
--
--   mysql --protocol=tcp -h HOST -P PORT -u USER -p interacpedia < migrations/phase1_create_indexes.sql
-- (Debian 13's client wants --skip-ssl-verify-server-cert where the server has no certificate that it knows.)
--
-- MySQL 5.7+ or MariaDB 10.2+, with SELECT and INDEX on these tables. It touches no row, lets everybody read and write
-- meanwhile (InnoDB), prints two lines for each index, and can be run again at any time: what is there is left alone,
-- what is not is made. Every index bears the comment 'recommendation-service phase 1', which is how phase1_rollback.sql
-- knows it from one that you had.

-- For this session only. Names compare whatever the client speaks; quotes mean what they mean below; and a table whose
-- dates default to zero can be indexed under a strict server.
SET NAMES utf8mb4;
SET SESSION sql_mode = '';
-- Waiting longer for a table behind somebody's open transaction would hold up everyone behind us: rather fail, and be
-- run again.
SET SESSION lock_wait_timeout = 10;
SET @mark = 'recommendation-service phase 1', @made = 0, @there = 0, @yours = 0, @not_made = 0;
-- Without a database there is nothing to look at: the client ends here with "No database selected".
SHOW TABLES LIKE 'phase 1';

-- How an index stands, for @table, @index and @columns: in @state, with more in @detail. The same text is in
-- phase1_create_indexes.sql, phase1_rollback.sql and phase1_validate.sql.
--   present         it is there as phase 1 makes it: name, columns and mark
--   served by yours an index of yours begins with the same columns, so phase 1 adds none
--   other columns   the name is taken by an index that is not of phase 1 and does not serve
--   no table, no column, key too long: it cannot be made
--   absent          it can be made
-- Invisible (MySQL 8) and ignored (MariaDB 10.6) indices serve nothing; older servers have no such column to ask.
SET @is_used = (
  SELECT CASE MAX(column_name) WHEN 'IS_VISIBLE' THEN 's.is_visible = "YES"' WHEN 'IGNORED' THEN 's.ignored = "NO"'
         ELSE '1' END
  FROM information_schema.columns
  WHERE table_schema = 'information_schema' AND table_name = 'STATISTICS' AND column_name IN ('IS_VISIBLE', 'IGNORED'));
SET @look = CONCAT('
  SELECT CASE
      WHEN t.table_name IS NULL THEN "no table"
      WHEN i.is_ours THEN "present"
      WHEN i.serving IS NOT NULL THEN "served by yours"
      WHEN i.same_name IS NOT NULL THEN "other columns"
      WHEN c.found < CHAR_LENGTH(@columns) - CHAR_LENGTH(REPLACE(@columns, ",", "")) + 1 THEN "no column"
      WHEN c.longest > IF(t.row_format IN ("Compact", "Redundant"), 767, 3072) THEN "key too long"
      ELSE "absent" END,
    CASE
      WHEN t.table_name IS NULL THEN CONCAT("there is no table ", @table, ", or you may not see it")
      WHEN i.is_ours THEN CONCAT(@table, " (", @columns, ")")
      WHEN i.serving IS NOT NULL THEN CONCAT(@table, ".", i.serving)
      WHEN i.same_name IS NOT NULL THEN CONCAT(@table, " (", i.same_name, ")")
      WHEN c.found < CHAR_LENGTH(@columns) - CHAR_LENGTH(REPLACE(@columns, ",", "")) + 1
        THEN CONCAT("of (", @columns, ") ", @table, " has (", COALESCE(c.names, ""), ")")
      WHEN c.longest > IF(t.row_format IN ("Compact", "Redundant"), 767, 3072)
        THEN CONCAT("a column of (", @columns, ") has ", c.longest, " bytes, too long for row format ", t.row_format)
      ELSE CONCAT(@table, " (", @columns, ")") END,
    COALESCE(t.engine, "")
  INTO @state, @detail, @engine
  FROM (
    SELECT MAX(index_name = @index AND columns = @columns AND mark = @mark AND is_plain AND NOT is_unique) AS is_ours,
           MAX(IF(index_name = @index, columns, NULL)) AS same_name,
           MIN(IF(is_plain AND is_used AND LEFT(CONCAT(columns, ","), CHAR_LENGTH(@columns) + 1) = CONCAT(@columns, ","),
                  index_name, NULL)) AS serving
    FROM (
      SELECT s.index_name, MAX(s.index_comment) AS mark, MAX(s.index_type = "BTREE") AS is_plain,
             MAX(s.non_unique = 0) AS is_unique, MIN(', @is_used, ') AS is_used,
             GROUP_CONCAT(IF(s.column_name IS NULL, "(expression)",
                             IF(s.sub_part IS NULL, s.column_name, CONCAT(s.column_name, "(", s.sub_part, ")")))
                          ORDER BY s.seq_in_index) AS columns
      FROM information_schema.statistics s
      WHERE s.table_schema = DATABASE() AND s.table_name = @table
      GROUP BY s.index_name) AS each_index) AS i
  CROSS JOIN (
    SELECT COUNT(*) AS found, GROUP_CONCAT(column_name) AS names, MAX(character_octet_length) AS longest
    FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = @table AND FIND_IN_SET(column_name, @columns)) AS c
  LEFT JOIN information_schema.tables t
    ON t.table_schema = DATABASE() AND t.table_name = @table AND t.table_type = "BASE TABLE"');
PREPARE look FROM @look;

-- What is to be done, in @statement, and what to print after it, in @say.
SET @decide = '
  SELECT
    IF(@state = "absent",
       CONCAT("CREATE INDEX ", @index, " ON ", @table, " (", REPLACE(@columns, ",", ", "), ") COMMENT ", QUOTE(@mark),
              IF(@engine = "InnoDB", " ALGORITHM=INPLACE LOCK=NONE", "")),
       "DO 0"),
    CONCAT("SELECT CONCAT(",
           QUOTE(CASE @state WHEN "absent" THEN CONCAT("created on ", @detail, ", ")
                             WHEN "present" THEN CONCAT("there already: ", @detail)
                             WHEN "served by yours" THEN CONCAT("not needed: your index ", @detail, " serves")
                             WHEN "other columns" THEN CONCAT("NOT CREATED: the name is taken by an index on ", @detail)
                             ELSE CONCAT("NOT CREATED: ", @detail) END),
           IF(@state = "absent",
              CONCAT(", ROUND(TIMESTAMPDIFF(MICROSECOND, @started, SYSDATE(6)) / 1000000, 1), ", QUOTE(" s")), ""),
           ") AS ", @index),
    @made + (@state = "absent"), @there + (@state = "present"), @yours + (@state = "served by yours"),
    @not_made + (@state NOT IN ("absent", "present", "served by yours")), SYSDATE(6)
  INTO @statement, @say, @made, @there, @yours, @not_made, @started';
PREPARE decide FROM @decide;

-- users.sql: recent users are 4 % of all; with both dates indexed the two are merged instead of reading every user.
SET @table = 'users', @index = 'recs_users_created', @columns = 'created_at';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- users.sql, changes.sql: the other half of that merge; and the latest update is the index's last entry.
SET @table = 'users', @index = 'recs_users_updated', @columns = 'updated_at';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- changes.sql: the latest deletion is the index's last entry; asked every CATALOG_REFRESH_SECONDS, else of every user.
SET @table = 'users', @index = 'recs_users_deleted', @columns = 'deleted_at';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- users.sql, changes.sql, user_facts.sql: without it every recent user is compared with every profile, which is what
-- makes phase 1 urgent.
SET @table = 'profiles', @index = 'recs_profiles_user', @columns = 'user_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- videos.sql, changes.sql: sent résumés of the window are one range, whatever else has piled up; and they are counted
-- in the index.
SET @table = 'resumes', @index = 'recs_resumes_status_created', @columns = 'status,created_at';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- interactions_ratings.sql: ratings of the window are one range, read from the index alone.
SET @table = 'team_feedbacks', @index = 'recs_ratings_created', @columns = 'type,created_at,user_id,model_id,value';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- engagement_ratings.sql, changes.sql: counted and averaged from the index alone, in its order: no temporary table and
-- no sorting.
SET @table = 'team_feedbacks', @index = 'recs_ratings_model', @columns = 'type,model_id,value';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- user_facts.sql: one user's ratings are looked up, while a feed waits, instead of found among all of the window.
SET @table = 'team_feedbacks', @index = 'recs_ratings_user', @columns = 'user_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- interactions_matches.sql: accepted matches of the window are one range, read from the index alone.
SET @table = 'matches', @index = 'recs_matches_created', @columns = 'status,created_at,user_id,model_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- engagement_matches.sql, changes.sql: counted from the index alone, in its order.
SET @table = 'matches', @index = 'recs_matches_model', @columns = 'status,model_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- user_facts.sql: the same for one user's matches.
SET @table = 'matches', @index = 'recs_matches_user', @columns = 'user_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- interactions_saves.sql: saves of the window are one range, read from the index alone.
SET @table = 'likes', @index = 'recs_likes_created', @columns = 'type,created_at,user_id,model_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- engagement_saves.sql, changes.sql: counted from the index alone, in its order.
SET @table = 'likes', @index = 'recs_likes_model', @columns = 'type,model_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- user_facts.sql: the same for one user's saves.
SET @table = 'likes', @index = 'recs_likes_user', @columns = 'user_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- connections.sql, changes.sql: accepted connections of the window are one range, read from the index alone.
SET @table = 'user_connections', @index = 'recs_connections_created', @columns = 'status,created_at,from_id,to_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- user_facts.sql: one user's connections are looked up, in either direction.
SET @table = 'user_connections', @index = 'recs_connections_from', @columns = 'from_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- user_facts.sql: the other direction.
SET @table = 'user_connections', @index = 'recs_connections_to', @columns = 'to_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- engagement_views.sql: all views of résumés are counted from the index alone, in its order.
SET @table = 'views', @index = 'recs_views_model', @columns = 'model_type,model_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- engagement_exhibitions.sql: all exhibitions are counted from the index alone, in its order.
SET @table = 'resumes_exhibited', @index = 'recs_exhibited_resume', @columns = 'resume_id';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- interactions_views.sql: the window is one range of the index alone, and only its rows are then read; the log is the
-- largest table.
SET @table = 'activity_log', @index = 'recs_activity_created', @columns = 'created_at';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

-- user_facts.sql: one user's latest views, while a feed waits: without it all of the window is read for each user.
SET @table = 'activity_log', @index = 'recs_activity_causer', @columns = 'causer_id,created_at';
EXECUTE look; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

SELECT CONCAT(@made, ' created, ', @there, ' there already, ', @yours, ' served by yours, ', @not_made, ' not created') AS `phase 1`;

-- Videos and challenges that are in the tables with their creators, whether they may be shown or not. Read where a
-- catalog would lose most of its items at once: what was withdrawn is there, what was lost is not.
SELECT r.id, 0 AS is_challenge
FROM resumes r
JOIN users u ON u.id = r.user_id
UNION ALL
SELECT c.id, 1
FROM challenges c
JOIN users u ON u.id = c.user_id

"""Fills a database with an invented job board: `python -m examples.jobs URL`."""

import sys

import numpy as np
from sqlalchemy import Column, Date, DateTime, ForeignKey, Integer, MetaData, String, Table, Text

from examples.world import Rows, World, run

METADATA = MetaData()
Table("companies", METADATA, Column("id", Integer, primary_key=True), Column("name", String(100), nullable=False))
Table("skills", METADATA, Column("id", Integer, primary_key=True), Column("name", String(60), nullable=False))
Table(
    "candidates",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("full_name", String(100)),
    Column("city", String(60)),
    Column("wanted_salary", Integer),
    Column("registered_at", DateTime, nullable=False),
)
Table(
    "job_ads",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("company_id", Integer, ForeignKey("companies.id"), nullable=False),
    Column("title", String(120), nullable=False),
    Column("description", Text),
    Column("city", String(60)),
    Column("salary", Integer),
    Column("state", String(20), nullable=False),
    Column("published_at", DateTime, nullable=False),
    Column("closes_on", Date),
)
Table(
    "job_ad_skills",
    METADATA,
    Column("job_ad_id", Integer, ForeignKey("job_ads.id"), primary_key=True),
    Column("skill_id", Integer, ForeignKey("skills.id"), primary_key=True),
    Column("level", Integer, nullable=False),
)
Table(
    "candidate_skills",
    METADATA,
    Column("candidate_id", Integer, ForeignKey("candidates.id"), primary_key=True),
    Column("skill_id", Integer, ForeignKey("skills.id"), primary_key=True),
)
Table(
    "ad_views",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("candidate_id", Integer, index=True),
    Column("job_ad_id", Integer, index=True),
    Column("seen_at", DateTime, nullable=False),
)
Table(
    "applications",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("candidate_id", Integer, ForeignKey("candidates.id"), nullable=False, index=True),
    Column("job_ad_id", Integer, ForeignKey("job_ads.id"), nullable=False, index=True),
    Column("status", String(20), nullable=False),
    Column("sent_at", DateTime, nullable=False),
)

FIELDS = {
    "Nurse": "first aid,wound care,patient records,night shifts,triage,paediatrics",
    "Carpenter": "joinery,power tools,drawings,roofing,restoration",
    "Cook": "menus,baking,food safety,large kitchens,vegetarian cooking",
    "Developer": "Python,SQL,web services,testing,Linux,statistics",
    "Designer": "typography,illustration,prototypes,colour,interviews",
    "Driver": "forklift,route planning,cold chain,long distance",
    "Teacher": "mathematics,lesson plans,early years,languages,music",
    "Accountant": "payroll,taxes,audits,spreadsheets,reporting",
}
CITIES = ("Lima", "Quito", "Bogotá", "Rosario", "Valparaíso")


def make(world: World) -> Rows:
    rng, names = world.rng, list(FIELDS)
    skills = list(dict.fromkeys(skill for listed in FIELDS.values() for skill in listed.split(",")))
    number = {skill: place + 1 for place, skill in enumerate(skills)}
    companies = max(10, world.people // 8)
    ads = max(60, world.people)
    of_ad = rng.integers(0, len(names), ads)
    born = rng.uniform(0.1, 120, ads)
    tastes = world.tastes(world.people, len(names))
    wanted = [skill for field in of_ad for skill in [FIELDS[names[field]].split(",")]]
    chosen = world.choices(tastes, np.eye(len(names))[of_ad], born, each=14)
    home = rng.integers(0, len(CITIES), world.people)
    return {
        "companies": [
            {"id": one + 1, "name": f"{world.name().split()[1]} & Co. {one + 1}"} for one in range(companies)
        ],
        "skills": [{"id": number[skill], "name": skill} for skill in skills],
        "candidates": [
            {
                "id": one + 1,
                "full_name": world.name(),
                "city": CITIES[home[one]] if rng.random() > 0.05 else None,
                "wanted_salary": int(rng.integers(8, 40)) * 100,
                "registered_at": world.ago(float(rng.uniform(151, 400))),
            }
            for one in range(world.people)
        ],
        "job_ads": [
            {
                "id": one + 1,
                "company_id": int(rng.integers(1, companies + 1)),
                "title": f"{names[of_ad[one]]}, {rng.choice(('full time', 'part time', 'trainee', 'senior'))}",
                "description": f"We look for somebody with {wanted[one][0]} and {wanted[one][1]}.",
                "city": str(rng.choice(CITIES)),
                "salary": int(rng.integers(8, 45)) * 100 if rng.random() > 0.1 else None,
                "state": "draft" if rng.random() < 0.05 else "open",
                "published_at": world.ago(float(born[one])),
                "closes_on": world.ago(float(born[one]) - 130).date() if rng.random() > 0.3 else None,
            }
            for one in range(ads)
        ],
        "job_ad_skills": [
            {"job_ad_id": one + 1, "skill_id": number[str(skill)], "level": int(rng.integers(1, 4))}
            for one in range(ads)
            for skill in rng.choice(wanted[one], 3, replace=False)
        ],
        "candidate_skills": [
            {"candidate_id": one + 1, "skill_id": number[str(skill)]}
            for one in range(world.people)
            for skill in rng.choice(FIELDS[names[int(tastes[one].argmax())]].split(","), 2, replace=False)
        ],
        "ad_views": [
            {"id": row + 1, "candidate_id": person + 1, "job_ad_id": item + 1, "seen_at": world.ago(days)}
            for row, (person, item, days) in enumerate(chosen)
        ],
        "applications": [
            {
                "id": row + 1,
                "candidate_id": person + 1,
                "job_ad_id": item + 1,
                "status": str(rng.choice(("sent", "invited", "declined"))),
                "sent_at": world.ago(days - 0.01),
            }
            for row, (person, item, days) in enumerate(chosen[::5])
        ],
    }


if __name__ == "__main__":
    sys.exit(run("jobs", METADATA, make))
